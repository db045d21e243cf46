"""How replies leave: as fast as their readers take them, with little held below, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HELD_BYTES = 65_536


def hold_little(transport: asyncio.Transport) -> None:
    """Hold little in TLS and in the system: a slow reader's progress would show every few megabytes only."""
    transport.set_write_buffer_limits(high=_HELD_BYTES)
    with contextlib.suppress(OSError):  # a Unix socket
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _HELD_BYTES)


def in_pieces(app: ASGIApp) -> ASGIApp:
    """A large reply is written piece by piece, as its reader takes it: what TLS has already, nobody sees any more."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_pieces(message: Message) -> None:
            body = message.get("body", b"")
            if len(body) <= _HELD_BYTES:
                await send(message)
                return
            for start in range(0, len(body), _HELD_BYTES):
                end = start + _HELD_BYTES
                more = end < len(body) or message.get("more_body", False)
                await send({"type": message["type"], "body": body[start:end], "more_body": more})

        await app(scope, receive, send_in_pieces)

    return call


class ReaderWatch:
    """Ends a connection whose caller takes nothing, for `seconds`, of what was written for it; however slow is fine."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begin, if it is not watched yet. Nothing more is written while it is."""
        if self._timer is None:
            self._look(self._transport.get_write_buffer_size(), self._loop.time())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, left: int, since: float) -> None:
        """`left` bytes were not taken yet at `since`."""
        now, still_left = self._loop.time(), self._transport.get_write_buffer_size()
        if still_left < left:
            left, since = still_left, now
        if now - since >= self._seconds:
            self._timer = None
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(self._seconds / 4, self._look, left, since)
