"""Whether the server of these settings is ready, asked from its own machine.

`python -m reranker_serve.ready` is a container's health check: status 0 if it is, else 1.
"""

from __future__ import annotations

import ssl
import sys
import urllib.request

from reranker_serve.environment import load_settings
from reranker_serve.errors import SettingsError
from reranker_serve.settings import Settings

_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def local_url(settings: Settings) -> str:
    """Where this machine reaches the server."""
    host = _LOCAL.get(settings.host, settings.host)
    return f"{'https' if settings.tls_certfile else 'http'}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def is_ready(settings: Settings, timeout: float = 2) -> bool:
    """Whether `/ready` answers 200 within so many seconds.

    Whom a certificate is made out to is not checked: nothing is told, and the address is this machine's own.
    """
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anyone))
    try:
        with directly.open(f"{local_url(settings)}/ready", timeout=timeout) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def main() -> int:
    try:
        return 0 if is_ready(load_settings()[0]) else 1
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
