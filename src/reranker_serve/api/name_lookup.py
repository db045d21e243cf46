"""Names of hosts, looked up on a thread of their own.

asyncio asks for them on the threads that it has for everything: a name server that hangs would soon hold all of these.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any


class NameLookup:
    """One at a time, whoever waits; to be used on one event loop, for one address."""

    def __init__(self) -> None:
        self._running: asyncio.Future[OSError | None] | None = None

    async def find(self, host: str, port: int) -> None:
        """Returns when it is known, and so found soon. Raises `OSError` if there is none."""
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            look = (host, port, loop, self._running)
            # A daemon, so that it holds up no end of the process.
            threading.Thread(target=_look, args=look, name="name lookup", daemon=True).start()
        error = await asyncio.shield(self._running)
        if error is not None:
            raise error


def looking_up(connection: type[Any]) -> type[Any]:
    """The class of connections of the library `redis`, which before it connects waits for its host's name here."""
    lookup = NameLookup()

    class LookingUp(connection):  # type: ignore[misc]  # of any kind
        async def connect(self) -> None:
            if not self.is_connected:
                await lookup.find(self.host, self.port)
            await super().connect()

    return LookingUp


def _look(host: str, port: int, loop: asyncio.AbstractEventLoop, found: asyncio.Future[OSError | None]) -> None:
    error: OSError | None = None
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as raised:
        error = raised
    except UnicodeError:
        error = OSError(f"{host} is no name of a host")
    with suppress(RuntimeError):  # that loop is closed
        loop.call_soon_threadsafe(_tell, found, error)


def _tell(found: asyncio.Future[OSError | None], error: OSError | None) -> None:
    if not found.done():
        found.set_result(error)
