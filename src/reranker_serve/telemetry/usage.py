"""What callers have had, and how fast they got it in the last minute. Pure: the time is told, in seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

_MINUTE = 60.0
# So many requests are remembered, about 1 MB.
_REMEMBERED = 8192
# Of a server that began just now, one request is not a hundred a second.
_SHORTEST = 1.0


@dataclass(frozen=True, slots=True)
class Amount:
    """Of answered requests: how many, the documents that were scored, and the tokens and Cohere's search units of their
    replies."""

    requests: int = 0
    documents: int = 0
    tokens: int = 0
    search_units: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.requests + other.requests,
            self.documents + other.documents,
            self.tokens + other.tokens,
            self.search_units + other.search_units,
        )


@dataclass(frozen=True, slots=True)
class Lately:
    """The last minute. Half of the requests took no longer than `p50` seconds, 95 of 100 no longer than `p95`; None if
    there were none."""

    requests_per_second: float
    pairs_per_second: float
    p50: float | None
    p95: float | None


class Keeper(Protocol):
    """Keeps usage beyond the end of the process."""

    def count(self, key: str | None, model: str, amount: Amount) -> None: ...


class Usage:
    """Counts answered requests by caller, from `began` on; of the last minute it knows the last `remembered` at most.
    `keeper` is told of each.

    Only who has a key gets a row, so there are as many as keys.
    """

    def __init__(self, began: float, remembered: int = _REMEMBERED, keeper: Keeper | None = None) -> None:
        self.began = began
        self._keeper = keeper
        self._callers: dict[str | None, Amount] = {}
        # When it was answered, the seconds that it took, its documents.
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=remembered)

    @property
    def callers(self) -> Mapping[str | None, Amount]:
        """By the name of the caller's key; None where no key is needed."""
        return self._callers

    def count(self, caller: str | None, model: str, seconds: float, amount: Amount, now: float) -> None:
        """A request was answered by that model, and took so long."""
        if self._keeper is not None:
            self._keeper.count(caller, model, amount)
        self._callers[caller] = self._callers.get(caller, Amount()) + amount
        self._recent.append((now, seconds, amount.documents))

    def lately(self, now: float) -> Lately:
        """Where more came in the minute than are remembered, it is shorter."""
        since = max(now - _MINUTE, self.began)
        if len(self._recent) == self._recent.maxlen:
            since = max(since, self._recent[0][0])
        span = max(now - since, _SHORTEST)
        recent = [(seconds, documents) for at, seconds, documents in self._recent if at >= since]
        times = sorted(seconds for seconds, _ in recent)
        return Lately(
            requests_per_second=len(recent) / span,
            pairs_per_second=sum(documents for _, documents in recent) / span,
            p50=percentile(times, 50) if times else None,
            p95=percentile(times, 95) if times else None,
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` of the ascending values do not exceed; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
