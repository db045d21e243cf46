"""Which replica a request goes to, and how many replicas there should be. Pure: no clock, no network, no Ray.

Both go by seconds of computing, not by requests: ten documents and a thousand are one request each. The numbers here
were chosen with `benchmarks/fleet.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

Replica = TypeVar("Replica", bound=Hashable)

# Of more candidates than these so many are looked at, drawn by chance: all of a thousand would take a millisecond.
_LOOKED_AT = 32
# What one report changes in what is thought to come from other routers.
_SMOOTHING = 0.05
# Seconds after which what was busy counts no more than a third: requests that come by chance are no trend.
_REMEMBERED_S = 60.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica tells of itself, as of the time `at` by its reader's clock.

    `waiting_seconds`: of computing that was let in and is not done (`reranker_waiting_seconds`). `pace`: the seconds
    that a unit of work takes there, 0 if not known; the unit is what `Routing.choose` counts in: bytes of a body,
    tokens.
    `busy`: the share of the time since its report before in which it computed, from 0 to 1.
    """

    at: float
    waiting_seconds: float
    pace: float = 0.0
    busy: float = 0.0


@dataclass(slots=True)
class _Known:
    """What one router knows of a replica: its last report, and what it has itself sent."""

    report: Report | None = None
    waiting: float = 0.0  # seconds, as of the time `since`
    since: float = 0.0
    sent: deque[tuple[float, float]] = field(default_factory=deque)  # time and seconds, after the report
    out: dict[Hashable, float] = field(default_factory=dict)  # seconds of each request that is not answered yet

    def at(self, now: float) -> float:
        """Seconds that wait there, as far as this router can know."""
        return max(0.0, self.waiting - max(0.0, now - self.since))

    def add(self, seconds: float, now: float) -> None:
        self.waiting = self.at(now) + seconds
        self.since = max(now, self.since)

    def begin(self, report: Report) -> float:
        """Go on from a newer report; returns the seconds that were sent between it and the one before."""
        between = 0.0
        while self.sent and self.sent[0][0] <= report.at:
            between += self.sent.popleft()[1]
        self.report, self.since, self.waiting = report, report.at, report.waiting_seconds
        for when, seconds in self.sent:
            self.add(seconds, when)
        return between


class Routing(Generic[Replica]):
    """The choices of one router, which does not know what others send. Not thread-safe.

    A replica's waiting seconds are those of its last report, less the time since, and what this router has sent since.
    What others have sent since is known in all only (what came to the replicas, less what this router sent them); it is
    taken to have gone where least waited. Up to the level that it fills, chance decides, by the room below the level:
    so routers that see the same reports do not all choose the same replica. A router that is alone takes the best.
    """

    def __init__(self, dice: Random | None = None) -> None:
        self._dice = dice or Random()
        self._known: dict[Replica, _Known] = {}
        self._others = 0.0  # seconds of work a second that others send to a replica, in the mean
        self._pace = 0.0  # in the mean

    def report(self, replica: Replica, report: Report) -> None:
        """Take a replica's report; one that is not newer than the last is passed over."""
        known = self._known.setdefault(replica, _Known())
        before = known.report
        if before and report.at <= before.at:
            return
        own = known.begin(report)
        if report.pace:
            self._pace += (_SMOOTHING if self._pace else 1.0) * (report.pace - self._pace)
        if before:
            passed = report.at - before.at
            came = report.busy * passed + report.waiting_seconds - before.waiting_seconds
            self._others += _SMOOTHING * ((came - own) / passed - self._others)

    def sent(self, replica: Replica, request: Hashable, work: float, now: float) -> None:
        """So many units of work went there."""
        known = self._known.setdefault(replica, _Known())
        seconds = work * self._pace_of(known)
        known.add(seconds, now)
        known.sent.append((now, seconds))
        known.out[request] = seconds

    def done(self, replica: Replica, request: Hashable) -> None:
        """It is answered, refused or given up; passed over if not known."""
        if known := self._known.get(replica):
            known.out.pop(request, None)

    def gone(self, replica: Replica) -> None:
        """There is no such replica any more; idempotent."""
        self._known.pop(replica, None)

    def choose(self, candidates: Sequence[Replica], work: float, now: float) -> list[Replica]:
        """The best for so many units of work first; of more than 32 candidates, some of them."""
        looked_at = self._dice.sample(candidates, min(_LOOKED_AT, len(candidates)))
        done_in: dict[Replica, float] = {}
        unknown = 0.0
        for replica in looked_at:
            known = self._known.get(replica)
            waiting = 0.0
            if known:
                waiting = known.at(now)
                unknown += now - known.report.at if known.report else 0.0
            done_in[replica] = waiting + work * self._pace_of(known)
        ranked = sorted(looked_at, key=done_in.__getitem__)
        if (unknown := unknown * self._others) > 0:
            first = self._below([done_in[replica] for replica in ranked], unknown)
            ranked.insert(0, ranked.pop(first))
        return ranked

    def _pace_of(self, known: _Known | None) -> float:
        return (known.report.pace if known and known.report else 0.0) or self._pace

    def _below(self, heights: Sequence[float], amount: float) -> int:
        """One of `heights`, which rise, drawn by its room below the level to which the amount fills them."""
        total, count = amount + heights[0], 1
        while count < len(heights) and heights[count] * count < total:
            total += heights[count]
            count += 1
        level = total / count
        drawn = self._dice.random() * amount
        for place in range(count):
            drawn -= level - heights[place]
            if drawn <= 0:
                return place
        return 0


class _Window:
    """The best of the values of the last so many seconds."""

    def __init__(self, seconds: float, better: Callable[[int, int], bool]) -> None:
        self._seconds = seconds
        self._better = better
        self._began: float | None = None
        self._values: deque[tuple[float, int]] = deque()  # each the best of all since

    def add(self, value: int, now: float) -> int | None:
        """None as long as values were added for less than the seconds."""
        self._began = now if self._began is None else self._began
        while self._values and not self._better(self._values[-1][1], value):
            self._values.pop()
        self._values.append((now, value))
        while self._values[0][0] < now - self._seconds:
            self._values.popleft()
        return self._values[0][1] if now - self._began >= self._seconds else None


class Scaling:
    """How many replicas there should be: enough for what comes, and for what waits.

    What comes keeps as many busy as were in the last minute; chance asks for `spare` times the root of that more. What
    waits are the seconds of all replicas over `target_seconds`: longer than a large request takes alone, or the replica
    that has one calls for others. Up it goes to what was wanted throughout `up_delay`, down to the most that was wanted
    in `down_delay`; between `least` and `most`. With `least` 0 the last one goes when nothing came for `to_zero_delay`,
    and the first comes at once. All in seconds. Not thread-safe.
    """

    def __init__(
        self,
        least: int = 1,
        most: int = 10,
        target_seconds: float = 10.0,
        up_delay: float = 20.0,
        down_delay: float = 300.0,
        to_zero_delay: float = 1800.0,
        spare: float = 1.0,
    ) -> None:
        self._least, self._most = least, most
        self._target_seconds = target_seconds
        self._spare = spare
        self._up = _Window(up_delay, lambda a, b: a < b)
        self._down = _Window(down_delay, lambda a, b: a > b)
        self._idle = _Window(to_zero_delay, lambda a, b: a > b)
        self._busy: float | None = None
        self._looked = -math.inf

    def desired(self, reports: Iterable[Report], current: int, now: float, pending: int = 0) -> int:
        """How many there should be, where `current` are or are starting.

        `reports` are the last ones of those that serve, `pending` the requests that wait for a replica to start.
        """
        seen = list(reports)
        busy, waiting = sum(one.busy for one in seen), sum(one.waiting_seconds for one in seen)
        wanted = self._wanted(busy, waiting, pending, now)
        up, down, idle = (window.add(wanted, now) for window in (self._up, self._down, self._idle))
        if down is not None and down < current:
            current = max(down, 0 if idle == 0 else 1)
        if up is not None and up > current:
            current = up
        if pending:
            current = max(1, current)
        return min(max(current, self._least), self._most)

    def _wanted(self, busy: float, waiting: float, pending: int, now: float) -> int:
        if self._busy is None:
            self._busy = busy
        else:
            self._busy += (1 - math.exp((self._looked - now) / _REMEMBERED_S)) * (busy - self._busy)
        self._looked = now
        if not busy and not waiting and not pending:
            return 0
        return max(
            1, math.ceil(self._busy + self._spare * math.sqrt(self._busy)), math.ceil(waiting / self._target_seconds)
        )
