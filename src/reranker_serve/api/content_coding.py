"""`Content-Encoding` of request bodies (RFC 9110, 8.4): decoded as they stream in, never further than is asked for."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from reranker_serve.errors import MalformedBody, UnsupportedEncoding

# Each costs as much as thousands of bytes; parallel compressors write one for every 64 KiB or more.
_MOST_MEMBERS = 1024
_GZIP, _ZLIB, _RAW = 31, 15, -15


def decoder_for(codings: Iterable[str]) -> Decoder | None:
    """For the values of `Content-Encoding`; None if the body is as it is. Raises `UnsupportedEncoding`."""
    named = ",".join(codings)
    applied = [name for part in named.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    match applied:
        case []:
            return None
        case ["gzip" | "x-gzip" | "deflate" as coding]:
            return Decoder(coding.removeprefix("x-"))
    raise UnsupportedEncoding(f"Content-Encoding '{named.strip()}' is not read here: send gzip, deflate or none")


class Decoder:
    """gzip of one or several members, or deflate: with zlib's header, as it should be, or without, as some send it."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._encoded = b""
        self._stream: Any = None  # zlib does not name the type of its decompressors
        self._members = 0

    def feed(self, data: bytes) -> None:
        self._encoded += data

    def piece(self, most: int) -> bytes:
        """The next decoded bytes, at most `most`; none if more has to be fed. Raises `MalformedBody`."""
        try:
            while self._begin_member():
                piece: bytes = self._stream.decompress(self._encoded, most)
                self._encoded = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
                if piece or not self._stream.eof:
                    return piece
        except zlib.error:
            raise MalformedBody(f"the body is not valid {self._coding}, as its Content-Encoding says") from None
        return b""

    def finish(self) -> None:
        """Raises `MalformedBody` if the body ended too early. No body at all is none to decode."""
        if self._encoded or (self._stream and not self._stream.eof):
            raise MalformedBody(f"the body is cut off: its {self._coding} data has no end")

    def _begin_member(self) -> bool:
        """Whether there is one to decode."""
        if self._stream and not self._stream.eof:
            return True
        if len(self._encoded) < 2:
            return False
        self._members += 1
        if self._members > (_MOST_MEMBERS if self._coding == "gzip" else 1):
            raise MalformedBody(f"the body's {self._coding} data goes on after its end")
        self._stream = zlib.decompressobj(self._window_bits())
        return True

    def _window_bits(self) -> int:
        if self._coding == "gzip":
            return _GZIP
        first, second = self._encoded[:2]
        return _ZLIB if first & 0x0F == 8 and (first << 8 | second) % 31 == 0 else _RAW
