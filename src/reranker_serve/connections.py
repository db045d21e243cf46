"""What one connection may cost: time to send headers, their size, how many there are, time in which replies are taken.

uvicorn bounds none of these. Time and size of a body are `api/body_limit.py`'s.
"""

from __future__ import annotations

import asyncio
import functools
import resource
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reranker_serve.environment import load_settings
from reranker_serve.replies import ReaderWatch, hold_little, in_pieces
from reranker_serve.upgrades import UpgradeBlindParser

# Larger than the headers of any client; Node and nginx draw the line at 16 and 32 KiB.
MAX_HEAD_BYTES = 65_536
# Model files, the log, sockets of the event loop, the supervisor's pipes.
_OTHER_DESCRIPTORS = 128

_LAST_REQUESTS_S = 0.2

_REFUSALS = {
    408: b"HTTP/1.1 408 Request Timeout\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds that a caller may take to send headers, and to take nothing of a reply; how many callers there may be."""

    read_timeout: float
    max_connections: int


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and the bounds of a connection."""

    def __init__(self, app: Any, bounds: Bounds, **others: Any) -> None:
        super().__init__(app, http=BoundedConnection, ws="none", **others)
        self.bounds = bounds


class BoundedConnection(HttpToolsProtocol):
    """A connection that is closed when its caller takes too long, sends headers without end, or reads no reply.

    Also for `uvicorn --http reranker_serve.connections:BoundedConnection`; then the bounds are the environment's.
    """

    parser: UpgradeBlindParser

    def __init__(self, config: uvicorn.Config, *arguments: Any, **keywords: Any) -> None:
        super().__init__(config, *arguments, **keywords)
        self.app = in_pieces(self.app)
        self.parser = UpgradeBlindParser(self)
        self._bounds = config.bounds if isinstance(config, ServerConfig) else _bounds_of_environment()
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._read_ahead = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        hold_little(transport)
        self._reader = ReaderWatch(self.loop, transport, self._bounds.read_timeout)
        if len(self.connections) > self._bounds.max_connections:
            self._refuse(503)
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self._idle:
            self._await_head()
        # Read since the last head, message or piece of a body was whole: headers or trailers, maybe without end.
        self._read_ahead += len(data)
        super().data_received(data)
        if self._read_ahead > MAX_HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what follows a chunked body may add nothing to the headers that were acted upon
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.begins_again:
            return
        self._forget_head()
        self._unset_keepalive_if_required()
        self._in_head = False
        self._read_ahead = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._read_ahead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.begins_again:
            return
        self._read_ahead = 0
        super().on_message_complete()
        if self._idle:  # it was answered before it was whole: nothing more is awaited now
            self._forget_head()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_last_reply()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._watch_last_reply()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_last_reply()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._reader.stop()

    def shutdown(self) -> None:
        if self._idle:  # a request may be on its way: it must find somebody who reads it
            self.loop.call_later(_LAST_REQUESTS_S, self._close_if_idle)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        self._reader.stop()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        super().shutdown()
        self._watch_last_reply()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._bounds.read_timeout, self._refuse, 408)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int) -> None:
        self._forget_head()
        if self.transport.is_closing():
            return
        if self._idle or not self.cycle.response_started:
            self.transport.write(_REFUSALS[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        if not self._idle:  # the request that was being read gets no other reply
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._watch_last_reply()

    def _watch_last_reply(self) -> None:
        """A closing transport waits for a caller who does not read what was sent, for ever."""
        if self.transport.is_closing():
            self._reader.watch()


def allow_connections(wanted: int) -> int:
    """Raise the limit of open files as far as the system lets us; returns how many connections fit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHER_DESCRIPTORS))


@functools.cache
def _bounds_of_environment() -> Bounds:
    settings, _ = load_settings()
    return Bounds(settings.read_timeout, settings.max_connections)
