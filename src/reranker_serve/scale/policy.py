"""Which replica a request goes to, and how many replicas there should be. Pure: no clock, no network, no Ray.

Both go by seconds of computing, not by requests: ten documents and a thousand are one request each. The numbers here
were chosen with `python -m benchmarks.fleet`.
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
# Of the work that a router sent and has no answer to, so much at least is still to be done, whatever the clock says.
_LEFT_OF_OUT = 0.8
# A replica away from home must be ahead by so much of a common request: others send there unseen.
_AWAY = 0.5
# A report is never older than so much when it comes; what was sent before that need not be kept.
_OLDEST_REPORT_S = 60.0
# What one report or one request changes in what is common.
_SMOOTHING = 0.02
# Seconds after which what was busy counts no more than a third: what comes by chance is no trend.
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
    reported: float = 0.0  # seconds, as of the time `since`: by the report and what was sent after it
    since: float = 0.0
    sent: deque[tuple[float, float]] = field(default_factory=deque)  # time and seconds, after the report
    out: dict[Hashable, float] = field(default_factory=dict)  # seconds of each request that is not answered yet
    out_seconds: float = 0.0
    others: float = 0.0  # seconds of what others had sent, as of the report

    def waiting(self, now: float) -> float:
        """Seconds that wait there, as far as this router can know."""
        by_clock = self.reported - max(0.0, now - self.since)
        others = max(0.0, self.others - now + self.report.at) if self.report else 0.0
        return max(min(by_clock, self.out_seconds + others), _LEFT_OF_OUT * self.out_seconds)

    def begin(self, report: Report) -> None:
        """Go on from a newer report."""
        while self.sent and self.sent[0][0] <= report.at:
            self.sent.popleft()
        self.report, self.since, self.reported = report, report.at, report.waiting_seconds
        self.others = report.waiting_seconds - self.out_seconds
        for when, seconds in self.sent:
            self._add(seconds, when)
            self.others += seconds

    def send(self, request: Hashable, seconds: float, now: float) -> None:
        self._add(seconds, now)
        self.sent.append((now, seconds))
        while self.sent[0][0] < now - _OLDEST_REPORT_S:
            self.sent.popleft()
        self.out[request] = seconds
        self.out_seconds += seconds

    def end(self, request: Hashable) -> None:
        self.out_seconds -= self.out.pop(request, 0.0)
        if not self.out:
            self.out_seconds = 0.0  # and nothing of what rounding left

    def _add(self, seconds: float, now: float) -> None:
        self.reported = max(0.0, self.reported - max(0.0, now - self.since)) + seconds
        self.since = max(now, self.since)


class Routing(Generic[Replica]):
    """The choices of one router, which does not see what others send. Not thread-safe.

    A replica's waiting seconds are those of its last report, less the time since, and what this router has sent since;
    but never less than most of what it has sent and has no answer to, nor more than all of that and what others had
    sent. What others send is not seen until the next report. So where there are several routers, each should have some
    replicas for itself, its home; it goes elsewhere only when these are busy.
    """

    def __init__(self, dice: Random | None = None) -> None:
        self._dice = dice or Random()
        self._known: dict[Replica, _Known] = {}
        self._home: frozenset[Replica] = frozenset()
        self._pace = 0.0  # the common one
        self._seconds = 0.0  # of a common request

    def settle(self, home: Iterable[Replica]) -> None:
        """These are at home from now on; none means all. `share` deals them out, or take those on the router's node."""
        self._home = frozenset(home)

    def report(self, replica: Replica, report: Report) -> None:
        """Take a replica's report; one that is not newer than the last is passed over."""
        known = self._known.setdefault(replica, _Known())
        if known.report and report.at <= known.report.at:
            return
        known.begin(report)
        if report.pace:
            self._pace = _followed(self._pace, report.pace)

    def sent(self, replica: Replica, request: Hashable, work: float, now: float) -> None:
        """A request of so many units of work went there."""
        known = self._known.setdefault(replica, _Known())
        seconds = work * self._pace_of(known)
        known.send(request, seconds, now)
        if seconds:  # and not who asked for no computing, such as a probe
            self._seconds = _followed(self._seconds, seconds)

    def done(self, replica: Replica, request: Hashable) -> None:
        """It is answered, refused or given up; passed over if not known."""
        if known := self._known.get(replica):
            known.end(request)

    def gone(self, replica: Replica) -> None:
        """There is no such replica any more; idempotent."""
        self._known.pop(replica, None)

    def choose(self, candidates: Sequence[Replica], work: float, now: float) -> list[Replica]:
        """The best for so many units of work first; of more than 32 candidates, some of them.

        None away from home is named as long as one at home waits for less than half a common request takes.
        """
        home = [one for one in candidates if one in self._home] or candidates
        looked_at, lead = self._some(home), _AWAY * self._seconds
        done_in = {one: self._done_in(one, work, now) for one in looked_at}
        if len(home) < len(candidates) and all(self._waiting(one, now) > lead for one in looked_at):
            away = [one for one in candidates if one not in self._home]
            done_in |= {one: self._done_in(one, work, now) + lead for one in self._some(away)}
        return sorted(done_in, key=done_in.__getitem__)

    def _some(self, candidates: Sequence[Replica]) -> list[Replica]:
        """In an order of chance, so that equal ones are."""
        return self._dice.sample(candidates, min(_LOOKED_AT, len(candidates)))

    def _done_in(self, replica: Replica, work: float, now: float) -> float:
        return self._waiting(replica, now) + work * self._pace_of(self._known.get(replica))

    def _waiting(self, replica: Replica, now: float) -> float:
        known = self._known.get(replica)
        return known.waiting(now) if known else 0.0

    def _pace_of(self, known: _Known | None) -> float:
        return (known.report.pace if known and known.report else 0.0) or self._pace


def share(replicas: Iterable[Replica], router: int, routers: int) -> list[Replica]:
    """The home of one of so many routers, counted from 0, which all must give the replicas in the same order.

    Where there are more routers than replicas, several have the same one.
    """
    dealt = list(replicas)
    return dealt[router % len(dealt) :: routers] if dealt else []


def _followed(common: float, one: float) -> float:
    return common + (_SMOOTHING if common else 1.0) * (one - common)


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
    in `down_delay`; between `least` and `most`. With `least` 0 the last one goes when nothing was computed for
    `to_zero_delay`, and the first comes at once. All in seconds. Not thread-safe.
    """

    def __init__(
        self,
        least: int = 1,
        most: int = 10,
        target_seconds: float = 10.0,
        up_delay: float = 20.0,
        down_delay: float = 120.0,
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
