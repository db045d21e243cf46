"""Where what callers have had is counted: the contract, and the ledger of a process that counts by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from reranker_serve.api.rate_windows import Window, Windows
from reranker_serve.rates import Limit, Rates, Standing, midnight


class Caller(NamedTuple):
    """Who counts as one: keys of one name, a key without one, an address, an IPv6 network."""

    name: str
    has_key: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """How the caller stands with each of its limits now; if some are `used_up`, the request was not let in."""

    standings: Sequence[Standing]
    used_up: Sequence[Standing] = ()


class Ledger(Protocol):
    """Counts requests when they come and tokens when they are known, in the minute and the day it is then."""

    async def admit(self, caller: Caller, rates: Rates) -> Admission:
        """Count a request, unless the caller has used up one of its limits."""

    async def charge(self, caller: Caller, rates: Rates, tokens: int) -> Sequence[Standing]:
        """Count tokens, also beyond what is left; how the caller stands then."""

    async def close(self) -> None: ...


class Days(Protocol):
    """Days of keys, counted where it survives the process; as `Windows`."""

    def of(self, caller: str, now: float) -> Window: ...

    def charge(self, caller: str, now: float, requests: int = 0, tokens: int = 0) -> None: ...


class OwnLedger:
    """Counts in memory, for this process alone; gives its share of a limit where it is one of several `workers`.

    Days of keys are counted in `recorded`, if given, where all processes write: of these limits it gives all.
    """

    def __init__(self, workers: int = 1, recorded: Days | None = None) -> None:
        self._workers = workers
        self._minutes = Windows()
        self._days = Windows(midnight)
        self._recorded = recorded

    async def admit(self, caller: Caller, rates: Rates) -> Admission:
        before = self._standings(caller, rates)
        used_up = [standing for standing in before if not standing.left]
        if used_up:
            return Admission(before, used_up)
        self._count(caller, rates, requests=1)
        return Admission(self._standings(caller, rates))

    async def charge(self, caller: Caller, rates: Rates, tokens: int) -> Sequence[Standing]:
        self._count(caller, rates, tokens=tokens)
        return self._standings(caller, rates)

    async def close(self) -> None:
        return None

    def _standings(self, caller: Caller, rates: Rates) -> list[Standing]:
        return [self._standing(caller, limit) for limit in rates.limits]

    def _standing(self, caller: Caller, limit: Limit) -> Standing:
        windows, clock = self._windows(caller, limit.period)
        now = clock()
        ends, requests, tokens = windows.of(caller.name, now)
        used = requests if limit.kind == "requests" else tokens
        shared = windows is self._recorded
        seconds = math.ceil(ends - now) if used else 0
        return Standing(limit if shared else limit.share(self._workers), used, seconds)

    def _count(self, caller: Caller, rates: Rates, requests: int = 0, tokens: int = 0) -> None:
        for period in {limit.period for limit in rates.limits}:
            windows, clock = self._windows(caller, period)
            windows.charge(caller.name, clock(), requests, tokens)

    def _windows(self, caller: Caller, period: str) -> tuple[Days, Callable[[], float]]:
        """Where its minutes or days are, and the clock for them: no minute ends late because a clock was set back."""
        if period == "minute":
            return self._minutes, time.monotonic
        return (self._recorded if self._recorded and caller.has_key else self._days), time.time
