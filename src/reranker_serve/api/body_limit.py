"""What the body of a request may cost: bytes of its own, bytes of all bodies together, and time."""

from __future__ import annotations

import asyncio
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker_serve.api.content_coding import Decoder, decoder_for
from reranker_serve.errors import MalformedBody, RequestTooLarge, SlowBody

# Decoded at a time; takes about a millisecond.
_PIECE_BYTES = 262_144


class Budget(Protocol):
    """Bytes that all bodies together may take."""

    def take(self, amount: int) -> None:
        """Raises a `RequestError` if it does not fit now; then nothing is taken."""

    def give_back(self, amount: int) -> None: ...


class BodyLimit:
    """Refuses a body before it is in memory, by its declared length or while it streams in; decodes it on the way.

    Of the common budget a body takes what has arrived of it, until the reply begins. What it declares must fit as well,
    but is not taken: who declares much and sends nothing keeps nobody out.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float, budget: Budget) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        arriving = _Arriving(receive, headers, self._limit, self._seconds)
        decoder = decoder_for(headers.getlist("content-encoding")) if scope["method"] == "POST" else None
        body = _Body(arriving, decoder, self._limit, self._budget)
        self._budget.take(arriving.declared)
        self._budget.give_back(arriving.declared)

        async def send_and_release(message: Message) -> None:
            if message["type"] == "http.response.start":
                body.release()
            await send(message)

        try:
            await self._app(scope, body.receive, send_and_release)
        finally:
            scope["state"]["exchange"].body_bytes = body.size
            body.release()


class _Arriving:
    """A body as it is sent, within its length and time."""

    def __init__(self, receive: Receive, headers: Headers, limit: int, seconds: float) -> None:
        self.receive_more = receive
        self.complete = False
        self._limit = limit
        self._seconds = seconds
        self._until = asyncio.get_running_loop().time() + seconds
        self._size = 0
        length = headers.get("content-length", "")
        self.declared = int(length) if length.isdecimal() else 0
        # As a request without a body may, but for these.
        self._may_be_lost = "upgrade" in headers and (self.declared > 0 or "transfer-encoding" in headers)
        if self.declared > limit:
            raise _too_large(limit)

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(self._until):
                message = await self.receive_more()
        except TimeoutError:
            raise SlowBody(f"the body took longer than {self._seconds:g} s (RERANKER_READ_TIMEOUT)") from None
        self._size += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self._size > self._limit:
            raise _too_large(self._limit)
        if self._may_be_lost and self.complete and self._size == 0 and "body" in message:
            raise MalformedBody(
                "uvicorn loses the body where an upgrade is offered: offer none, or start uvicorn with"
                " --http reranker_serve.connections:BoundedConnection"
            )
        return message


class _Body:
    """A body as the application sees it: decoded, and counted in the common budget."""

    def __init__(self, arriving: _Arriving, decoder: Decoder | None, limit: int, budget: Budget) -> None:
        self._arriving = arriving
        self._decoder = decoder
        self._limit = limit
        self._budget = budget
        self._complete = False
        self._held = 0
        self.size = 0

    async def receive(self) -> Message:
        if self._complete:
            return await self._arriving.receive_more()
        message = await (self._arriving.receive() if self._decoder is None else self._decoded(self._decoder))
        self._complete = not message.get("more_body", False)
        self._take(len(message.get("body", b"")))
        return message

    def release(self) -> None:
        self._budget.give_back(self._held)
        self._held = 0

    async def _decoded(self, decoder: Decoder) -> Message:
        while not (piece := decoder.piece(_PIECE_BYTES)):
            if self._arriving.complete:
                decoder.finish()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._arriving.receive()
            if message["type"] != "http.request":
                return message
            decoder.feed(message.get("body", b""))
        await asyncio.sleep(0)  # little may become much: others have their turn in between
        return {"type": "http.request", "body": piece, "more_body": True}

    def _take(self, amount: int) -> None:
        self.size += amount
        if self.size > self._limit:
            raise _too_large(self._limit)
        self._budget.take(amount)
        self._held += amount


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body exceeds {limit} bytes (RERANKER_MAX_BODY_BYTES): send it in parts")
