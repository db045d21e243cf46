"""Requests, routers and replicas on a virtual clock."""

from __future__ import annotations

import heapq
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from random import Random

from benchmarks.fleet.replica import Replica, Request
from benchmarks.fleet.routers import Router
from reranker_serve.scale.policy import Report, share

# A report is so old when routers have it.
REPORT_DELAY = 0.3
# Nobody is told of a death: whoever sends there finds out at once and sends elsewhere, the others after so long.
DEATH_NOTICED = 1.0


@dataclass(frozen=True, slots=True)
class Habits:
    """Of a fleet: reports come every `period` seconds, replicas start in `start` seconds and live for `life` in the
    mean, their paces differ by `spread` (standard deviation of the logarithm)."""

    pass_seconds: float
    period: float = 2.0
    start: float = 60.0
    life: float | None = None
    spread: float = 0.0


class Fleet:
    """Replicas whose number may change; who dies is replaced. Of the requests each router gets its share."""

    def __init__(
        self,
        habits: Habits,
        routers: Sequence[Router],
        number: int,
        dice: Random,
        shares: Sequence[float] | None = None,
    ) -> None:
        self.now = 0.0
        self.habits = habits
        self.routers = routers
        self.serving: list[Replica] = []
        self.ended: list[Replica] = []
        self.starting: list[Replica] = []
        self.last: dict[Replica, Report] = {}
        self.seen: list[Request] = []
        self.waiting: list[Request] = []  # for a replica to start
        self._dice = dice
        self._shares = list(accumulate(shares or [1.0] * len(routers)))
        self._names = count()
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for _ in range(number):
            self._start(0.0)
        self.until(0.0)

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Something is to happen then."""
        heapq.heappush(self._events, (when, next(self._order), act))

    def run(self, coming: Iterable[Request]) -> list[Request]:
        """Everything that comes, and what became of it."""
        for request in coming:
            self.until(request.arrived)
            self.now = request.arrived
            self.seen.append(request)
            request.router = bisect(self._shares, self._dice.random() * self._shares[-1])
            self.send(request)
        self.until(self.now + 600.0)
        return self.seen

    def until(self, then: float) -> None:
        """What happens by then, while nobody asks for anything."""
        events = self._events
        while events and events[0][0] <= then:
            self.now, _, act = heapq.heappop(events)
            act()

    def send(self, request: Request) -> None:
        router = self.routers[request.router]
        while self.serving:
            replica = router.choose(self.serving, request, self.now)
            if replica.alive:
                break
            self._noticed(replica)
        else:
            self.waiting.append(request)
            return
        if not replica.admits(request, self.now):
            request.refused = True
            return
        router.sent(replica, request, self.now)
        self._pass(replica, replica.take(request, self.now))

    def _pass(self, replica: Replica, end: float | None) -> None:
        if end is not None:
            self.at(end, lambda: self._pass_over(replica))

    def _pass_over(self, replica: Replica) -> None:
        if not replica.alive:
            return
        if request := replica.end(self.now):
            self.routers[request.router].done(replica, request)
        self._pass(replica, replica.begin(self.now))
        if replica.draining and not replica.running:
            self._end(replica)

    @property
    def number(self) -> int:
        """How many serve or start."""
        return len(self.serving) + len(self.starting)

    def scale(self, target: int) -> None:
        """Start replicas, or let some drain: first those that are starting, then those with least to do."""
        while self.number > target:
            self._drop()
        while self.number < target:
            self._start(self.habits.start)

    def _start(self, seconds: float) -> None:
        pace = self._dice.lognormvariate(0, self.habits.spread) if self.habits.spread else 1.0
        replica = Replica(next(self._names), self.habits.pass_seconds, pace, self.now)
        self.starting.append(replica)
        self.at(self.now + seconds * self._dice.uniform(0.7, 1.6), lambda: self._started(replica))

    def _started(self, replica: Replica) -> None:
        if replica in self.starting:
            self.starting.remove(replica)
            self._serve(replica)

    def seconds(self, until: float) -> float:
        """What was paid: the seconds of all replicas until then, those in which they start and drain, too."""
        every = self.serving + self.starting + self.ended
        return sum(max(0.0, min(one.ended or until, until) - one.began) for one in every)

    def _drop(self) -> None:
        if self.starting:
            self._end(self.starting.pop())
            return
        replica = min(self.serving, key=lambda one: one.free_at)
        self._remove(replica)
        replica.draining = True
        if not replica.running:
            self._end(replica)

    def _serve(self, replica: Replica) -> None:
        self.serving.append(replica)
        self._settle()
        replica.reported = (self.now, 0.0)
        self.at(self.now + self._dice.random() * self.habits.period, lambda: self._report(replica))
        if self.habits.life:
            self.at(self.now + self._dice.expovariate(1 / self.habits.life), lambda: self._die(replica))
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            self.send(request)

    def _report(self, replica: Replica) -> None:
        if not replica.alive or replica.draining:
            return
        before, was = replica.reported
        computed = replica.computed(self.now)
        replica.reported = (self.now, computed)
        passed = self.now - before
        busy = (computed - was) / passed if passed else 0.0
        report = Report(self.now, replica.waiting(self.now), replica.pace, busy)
        self.at(self.now + REPORT_DELAY, lambda: self._told(replica, report))
        self.at(self.now + self.habits.period, lambda: self._report(replica))

    def _told(self, replica: Replica, report: Report) -> None:
        if replica.alive and not replica.draining:
            self.last[replica] = report
            for router in self.routers:
                router.report(replica, report)

    def _die(self, replica: Replica) -> None:
        if replica not in self.serving:
            return
        for request in replica.lost():
            self.routers[request.router].done(replica, request)
        self.at(self.now + DEATH_NOTICED, lambda: self._noticed(replica))

    def _noticed(self, replica: Replica) -> None:
        if replica in self.serving:
            self._remove(replica)
            self._end(replica)
            self._start(self.habits.start)

    def _remove(self, replica: Replica) -> None:
        self.serving.remove(replica)
        self.last.pop(replica, None)
        for router in self.routers:
            router.gone(replica)
        self._settle()

    def _settle(self) -> None:
        for number, router in enumerate(self.routers):
            router.settle(share(self.serving, number, len(self.routers)))

    def _end(self, replica: Replica) -> None:
        replica.ended = self.now
        self.ended.append(replica)
