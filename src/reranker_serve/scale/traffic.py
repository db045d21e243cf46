"""What a replica measures of its own traffic, so that others can weigh a request by its length. Pure: no clock."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# What is reported: seconds that wait, seconds that a byte of a request takes, the share of time in which it computed.
WAITING, PACE, BUSY = "waiting_seconds", "seconds_per_byte", "busy"
# When a report was made, by the replica's own clock: two that say the same are one.
MADE = "made"

# Before anything came: as if English prose had come, so many bytes of it.
_FIRST_TOKENS_PER_BYTE = 0.3
_FIRST_BYTES = 50_000.0
# Bytes after which what came before counts half.
_REMEMBERED = 1_000_000.0

_ID = b"x-request-id"


class Traffic:
    """Tokens that were computed for a byte of what callers post, of late. Known pairs cost none, and count as none."""

    def __init__(self) -> None:
        self._bytes = _FIRST_BYTES
        self._tokens = _FIRST_BYTES * _FIRST_TOKENS_PER_BYTE
        self._posted = 0
        self._seen = 0.0

    def posted(self, length: int) -> None:
        """A body of so many bytes comes in."""
        self._posted += length

    def computed(self, tokens: float) -> None:
        """The model has read so many tokens since it was loaded."""
        if self._bytes > _REMEMBERED:
            self._bytes, self._tokens = self._bytes / 2, self._tokens / 2
        self._bytes += self._posted
        self._tokens += tokens - self._seen
        self._posted, self._seen = 0, tokens

    @property
    def tokens_per_byte(self) -> float:
        return self._tokens / self._bytes


class Share:
    """Of the time between two looks, the share that was computed in.

    A pass is seen when it is done. What is more than fits between two looks counts after them, or passes that take
    longer would hardly count; but no more of it than one look found.
    """

    def __init__(self, now: float) -> None:
        self._at = now
        self._tokens = 0.0
        self._left = 0.0  # seconds that are not counted yet

    def look(self, tokens: float, seconds_per_token: float, now: float) -> float:
        """0 to 1, where the model has read so many tokens since it was loaded."""
        passed, seen = now - self._at, (tokens - self._tokens) * seconds_per_token
        self._at, self._tokens = now, tokens
        computed = seen + self._left
        self._left = min(max(0.0, computed - passed), max(seen, self._left))
        return min(1.0, computed / passed) if passed > 0 else 0.0


class BehindProxy:
    """Tells `traffic` how long the bodies are that come in, as their headers say; `most` is what is not refused.

    Ray's proxy adds the request's id to a reply, whether it is there or not: here it is taken out.
    """

    def __init__(self, app: Application, traffic: Traffic, most: float) -> None:
        self._app = app
        self._traffic = traffic
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [header for header in message["headers"] if header[0].lower() != _ID]
            await send(message)

        if scope["type"] == "http":
            self._traffic.posted(body_length(scope, self._most) or 0)
        await self._app(scope, receive, without_id)


def body_length(scope: Scope, most: float = math.inf) -> int | None:
    """Bytes of a request's body as its header says; None if it does not. 0 above `most`: that is refused unread."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
            return 0 if length is not None and length > most else length
    return None
