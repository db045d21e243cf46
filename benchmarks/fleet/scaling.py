"""What a day costs, and how long requests wait in it, by each way to say how many replicas there are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np

from benchmarks.fleet.clock import Fleet, Habits
from benchmarks.fleet.load import BASE, Model, day, requests
from benchmarks.fleet.routers import routers
from benchmarks.fleet.routing import outcome
from reranker_serve.scale.policy import Scaling

EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Day:
    """Of `length` seconds, in which so many replicas are busy, least at night and most at noon."""

    name: str
    least_busy: float
    most_busy: float
    length: float = 21_600.0
    model: Model = BASE
    start: float = 60.0
    life: float | None = None
    surge: float = 1.0

    def busy(self, now: float) -> float:
        """Within a quarter before noon it is `surge` times as much, for ten minutes, from one moment to the next."""
        surging = 0.4 * self.length <= now < 0.4 * self.length + 600
        return day(self.least_busy, self.most_busy, self.length)(now) * (self.surge if surging else 1.0)


# Pressed into hours, which is harder than a day: what comes grows four times as fast.
DAYS = [
    Day("0.4 to 4 busy, 24 h", 0.4, 4, 86_400.0),
    Day("4 to 40 busy, 6 h", 4, 40),
    Day("4 to 40 busy, 6 h, a replica lives for two hours", 4, 40, life=7200.0),
    Day("4 to 40 busy, 6 h, replicas start in five minutes", 4, 40, start=300.0),
    Day("4 to 40 busy, 6 h, ten minutes of three times as much", 4, 40, surge=3.0),
]


class Scaler(Protocol):
    def desired(self, fleet: Fleet, now: float) -> int: ...


class Seconds:
    """Ours, as it comes but for the bounds."""

    def __init__(self, most: int) -> None:
        self._scaling = Scaling(least=1, most=most, target_seconds=30.0)

    def desired(self, fleet: Fleet, now: float) -> int:
        return self._scaling.desired(fleet.last.values(), fleet.number, now, len(fleet.waiting))


class OngoingRequests:
    """As Ray Serve by itself: two requests a replica in the mean of 30 s; up after 30 s, down after 600 s."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: deque[int] = deque(maxlen=int(30 / EVERY))
        self._wanted: deque[int] = deque(maxlen=int(600 / EVERY))

    def desired(self, fleet: Fleet, now: float) -> int:
        self._seen.append(sum(one.requests for one in fleet.serving) + len(fleet.waiting))
        self._wanted.append(max(1, math.ceil(sum(self._seen) / len(self._seen) / 2)))
        up, down = min(list(self._wanted)[-int(30 / EVERY) :]), max(self._wanted)
        current = fleet.number
        if len(self._wanted) == self._wanted.maxlen and down < current:
            current = down
        return min(max(up, current), self._most)


class WaitingSeconds:
    """As KEDA and Kubernetes do by `reranker_waiting_seconds` alone, so many in the mean; down after 300 s."""

    def __init__(self, most: int, target: float) -> None:
        self._most, self._target = most, target
        self._wanted: deque[int] = deque(maxlen=int(300 / EVERY))

    def desired(self, fleet: Fleet, now: float) -> int:
        waiting = sum(one.waiting_seconds for one in fleet.last.values())
        ratio = waiting / max(1, len(fleet.last)) / self._target
        current = fleet.number
        self._wanted.append(max(1, math.ceil(waiting / self._target)) if abs(ratio - 1) > 0.1 else current)
        return min(max(self._wanted[-1], min(current, max(self._wanted))), self._most)


class Clairvoyant:
    """Knows what will come: as many as are busy and `spare` times the root of it, there on the second."""

    def __init__(self, busy: Callable[[float], float], spare: float) -> None:
        self._busy, self._spare = busy, spare

    def desired(self, fleet: Fleet, now: float) -> int:
        # Of the time until it is asked again the busier end.
        busy = max(self._busy(now), self._busy(now + EVERY))
        return max(1, math.ceil(busy + self._spare * math.sqrt(busy)))


@dataclass(frozen=True, slots=True)
class Row:
    """`cost` over the seconds of computing that came; seconds of waiting; shares of requests."""

    day: str
    scaler: str
    cost: float
    p50: float
    p99: float
    refused: float
    lost: float
    most: int
    requests: int


def measure(one: Day, name: str, scaler: Scaler, router: str, seed: int, start: float | None = None) -> Row:
    dice = Random(seed)
    habits = Habits(one.model.pass_seconds, 2.0, one.start if start is None else start, one.life)
    first = max(1, math.ceil(one.least_busy + math.sqrt(one.least_busy)))
    fleet = Fleet(habits, routers(router, 3, dice), first, Random(seed + 1))
    most = first

    def ask() -> None:
        nonlocal most
        fleet.scale(scaler.desired(fleet, fleet.now))
        most = max(most, fleet.number)
        fleet.at(fleet.now + EVERY, ask)

    fleet.at(EVERY, ask)
    peak = one.most_busy * one.surge
    seen = fleet.run(requests(one.model, one.busy, peak, one.length, np.random.default_rng(seed), 0.25))
    found = outcome(seen)
    work = sum(request.seconds for request in seen)
    return Row(
        one.name,
        name,
        fleet.seconds(one.length) / work,
        found.p50,
        found.p99,
        found.refused,
        found.lost,
        most,
        found.requests,
    )


def least_possible(one: Day, p99: float, seed: int) -> Row:
    """The cheapest clairvoyant, with an oracle for a router, by which the p99 is no longer."""

    def by(spare: float) -> Row:
        return measure(one, f"clairvoyant, spare {spare:.2f}", Clairvoyant(one.busy, spare), "oracle", seed, start=0.0)

    low, high, best = 0.0, 3.0, None
    while high - low > 0.2 or best is None:
        row = by(spare := (low + high) / 2)
        if row.p99 <= p99:
            high, best = spare, row
        else:
            low = spare
    return best


def rows(one: Day, seed: int, targets: Sequence[float] = (10.0, 20.0)) -> list[Row]:
    most = math.ceil(4 * one.most_busy * one.surge)
    ours = measure(one, "seconds", Seconds(most), "seconds", seed)
    others = [measure(one, "ongoing requests", OngoingRequests(most), "two choices", seed)]
    others += [
        measure(one, f"waiting seconds alone, {target:g}", WaitingSeconds(most, target), "seconds", seed)
        for target in targets
    ]
    return [ours, *others, least_possible(one, ours.p99, seed)]


HEAD = """\
| day | | cost over computing | over the least possible | p50 wait | p99 wait | refused | lost | most replicas |
|---|---|---|---|---|---|---|---|---|"""


def lines(found: list[Row]) -> list[str]:
    return [
        f"| {row.day} | {row.scaler} | {row.cost:.3f} | {row.cost / found[-1].cost:.3f} | {row.p50:.2f} | {row.p99:.2f}"
        f" | {row.refused:.4f} | {row.lost:.5f} | {row.most} |"
        for row in found
    ]
