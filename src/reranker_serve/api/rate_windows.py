"""What callers have had in their minutes or days. Pure: the time is told, in seconds."""

from __future__ import annotations

from collections.abc import Callable

# When it ends, requests, tokens. A plain tuple, because the garbage collector leaves those out: to look through as many
# objects of a class would halt the process for tens of milliseconds.
Window = tuple[float, int, int]

_MINUTE = 60
# A table of its own for so many, so that none is ever large enough for a request to notice when it grows or is swept.
_PARTS = 1024
_MOST_IN_A_PART = 256


def minute_end(now: float) -> float:
    """Of a minute that begins now."""
    return now + _MINUTE


class Windows:
    """A window for each caller, from the caller's first request on until it `ends`; what began later ends no earlier.

    Of very many callers those whose windows began first are forgotten, about 0.3 kB each: that takes who has so many
    addresses no further than the addresses do.
    """

    most = _PARTS * _MOST_IN_A_PART

    def __init__(self, ends: Callable[[float], float] = minute_end) -> None:
        self._ends = ends
        # Each in the order in which its windows end.
        self._parts: list[dict[str, Window]] = [{} for _ in range(_PARTS)]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def of(self, caller: str, now: float) -> Window:
        """The caller's window; a new one, which is not kept, if it has none or that is over."""
        window = self._part(caller).get(caller)
        return window if window and window[0] > now else (self._ends(now), 0, 0)

    def charge(self, caller: str, now: float, requests: int = 0, tokens: int = 0) -> None:
        part = self._part(caller)
        kept = part.get(caller)
        if kept is None or kept[0] <= now:
            part.pop(caller, None)  # for what begins now has its place at the end
            _make_room(part, now)
        ends, had_requests, had_tokens = self.of(caller, now)
        part[caller] = (ends, had_requests + requests, had_tokens + tokens)

    def _part(self, caller: str) -> dict[str, Window]:
        return self._parts[hash(caller) % _PARTS]


def _make_room(part: dict[str, Window], now: float) -> None:
    while part:
        oldest = next(iter(part))
        if part[oldest][0] > now and len(part) < _MOST_IN_A_PART:
            return
        del part[oldest]
