"""Who may call: a key in any of the headers that rerank clients use."""

from __future__ import annotations

from collections.abc import Iterable

from reranker_serve.errors import Unauthorized
from reranker_serve.keys import Key, Keys

_BEARER = b"bearer "


def check_key(headers: Iterable[tuple[bytes, bytes]], accepted: Keys) -> Key:
    """The key that a header holds. Raises `Unauthorized` unless one is accepted."""
    presented = [key for name, value in headers for key in _keys(name, value)]
    if not presented:
        raise Unauthorized("no API key: send 'Authorization: Bearer KEY'")
    key = accepted.find(presented)
    if key is None:
        raise Unauthorized("the API key is not valid")
    return key


def _keys(name: bytes, value: bytes) -> list[bytes]:
    if name in (b"x-api-key", b"api-key"):
        return [value.strip()]
    if name != b"authorization":
        return []
    value = value.strip()
    return [value[len(_BEARER) :].strip()] if value[: len(_BEARER)].lower() == _BEARER else [value]
