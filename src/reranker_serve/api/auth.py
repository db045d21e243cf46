"""Who may call: a key in any of the headers that rerank clients use."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from reranker_serve.errors import Unauthorized

# `/v1/cluster/auth` tells Xinference's client whether to send its key.
OPEN_PATHS = frozenset(
    {"/health", "/live", "/ready", "/ping", "/v1/health/live", "/v1/health/ready", "/v1/cluster/auth"}
)

_BEARER = b"bearer "


def check_key(headers: Iterable[tuple[bytes, bytes]], accepted: Sequence[bytes]) -> None:
    """Raises `Unauthorized` unless a header holds one of `accepted`. Compares in constant time, as bytes."""
    presented = [key for name, value in headers for key in _keys(name, value)]
    if not presented:
        raise Unauthorized("no API key: send 'Authorization: Bearer KEY'")
    # Every pair is compared: how long it takes tells nothing about which key came close.
    matches = [hmac.compare_digest(given, key) for given in presented for key in accepted]
    if not any(matches):
        raise Unauthorized("the API key is not valid")


def _keys(name: bytes, value: bytes) -> list[bytes]:
    if name in (b"x-api-key", b"api-key"):
        return [value.strip()]
    if name != b"authorization":
        return []
    value = value.strip()
    return [value[len(_BEARER) :].strip()] if value[: len(_BEARER)].lower() == _BEARER else [value]
