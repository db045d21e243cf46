"""Callers who offer an upgrade, as Java's clients do by default, are answered as if they had not."""

from __future__ import annotations

from array import array

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class UpgradeBlindParser(httptools.HttpRequestParser):
    """httptools' parser takes what follows an offered upgrade for another protocol, even the request's own body.

    This one begins again there: it reads the same head without the offer, and then the rest. So `connection` hears
    such a head twice, and acts on the one for which `begins_again` is false.
    """

    def __init__(self, connection: HttpToolsProtocol) -> None:
        self._connection = connection
        self._begin()

    @property
    def begins_again(self) -> bool:
        """Whether the head that is being read will be read again. CONNECT asks for a tunnel and offers nothing."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        rest = memoryview(data)
        while True:
            try:
                super().feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                if not self.begins_again:
                    raise
                head = self._head_without_offer()
                self._begin()
                super().feed_data(head)
                rest = rest[offer.args[0] :]

    def _begin(self) -> None:
        super().__init__(self._connection)
        # As uvicorn has it: so that the first of several pipelined requests is answered, though it says "close".
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_offer(self) -> bytes:
        request_line = b"%b %b HTTP/%b" % (self.get_method(), self._connection.url, self.get_http_version().encode())
        headers = (b"%b: %b" % header for header in self._connection.headers if header[0] != b"upgrade")
        return b"\r\n".join([request_line, *headers, b"", b""])
