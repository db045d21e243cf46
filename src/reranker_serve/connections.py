"""What one connection may cost: time to send the headers, their size, how many there are, time to read the reply.

uvicorn bounds none of these. Time and size of a body are the middleware's.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and the bounds of a connection; `read_timeout` is in seconds."""

    def __init__(self, app: Any, *, read_timeout: float, max_connections: int, **others: Any) -> None:
        super().__init__(app, http=BoundedConnection, ws="none", **others)
        self.read_timeout = read_timeout
        self.max_connections = max_connections


class BoundedConnection(HttpToolsProtocol):
    """A connection that is closed when its caller takes too long or sends headers without end."""

    config: ServerConfig

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.config.max_connections:
            self._refuse(503)
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self._idle:
            self._await_head()
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)

    def on_headers_complete(self) -> None:
        self._forget_head()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_later()

    def shutdown(self) -> None:
        if self._idle:  # a request may be on its way: it must find somebody who reads it
            self.loop.call_later(_LAST_REQUESTS_S, super().shutdown)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.config.read_timeout, self._refuse, 408)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int) -> None:
        self._forget_head()
        if not self.transport.is_closing():
            self.transport.write(_REFUSALS[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
            self._abort_later()

    def _abort_later(self) -> None:
        """A closing transport waits for a caller who does not read what was sent, for ever."""
        self.loop.call_later(self.config.read_timeout, self.transport.abort)


def allow_connections(wanted: int) -> int:
    """Raise the limit of open files as far as the system lets us; returns how many connections fit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHER_DESCRIPTORS))
