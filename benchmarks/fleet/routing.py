"""How long requests wait by each way to choose a replica, in fleets of a fixed size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from statistics import median

import numpy as np

from benchmarks.fleet.clock import Fleet, Habits
from benchmarks.fleet.load import BASE, SMALL, Model, requests
from benchmarks.fleet.replica import Request
from benchmarks.fleet.routers import routers

# Of each run the first part is left out: the fleet begins empty.
WARM_UP = 0.2
LEAST_SECONDS = 100.0


@dataclass(frozen=True, slots=True)
class Case:
    """`busy` is the load, as a share of what the replicas can compute."""

    replicas: int
    routers: int
    name: str = ""
    busy: float = 0.8
    period: float = 2.0
    model: Model = SMALL
    spread: float = 0.0
    guess_error: float | None = 0.25
    life: float | None = None
    uneven: bool = False

    def __str__(self) -> str:
        return self.name or f"{self.replicas} replicas, {self.routers} routers, reports every {self.period:g} s"


CASES = [
    Case(1, 1),
    Case(10, 1),
    Case(10, 3),
    Case(100, 1),
    Case(100, 5),
    Case(100, 5, period=10.0),
    Case(100, 20),
    Case(100, 20, period=10.0),
    Case(100, 100),
    Case(1000, 10),
    Case(100, 5, "load 0.5", busy=0.5),
    Case(100, 5, "load 0.9", busy=0.9),
    Case(100, 5, "load 0.95", busy=0.95),
    Case(100, 5, "sizes unseen", guess_error=None),
    Case(100, 5, "guesses wrong by half", guess_error=0.5),
    Case(100, 5, "speeds differ by a third", spread=0.3),
    Case(100, 5, "one router has half of the requests", uneven=True),
    Case(100, 5, "a replica lives for half an hour", life=1800.0),
    Case(100, 5, "a model of 2,074 tokens a second", model=BASE),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of the answered: p50 and p99 of waiting, p99 until the answer. Shares of all: refused, lost."""

    p50: float
    p99: float
    answer_p99: float
    refused: float
    lost: float
    requests: int


@dataclass(slots=True)
class Row:
    """A case by a way to choose, one outcome a seed."""

    case: str
    router: str
    outcomes: list[Outcome] = field(default_factory=list)

    def middle(self, what: str) -> float:
        return float(median(getattr(one, what) for one in self.outcomes))


def outcome(seen: list[Request]) -> Outcome:
    answered = [one for one in seen if one.finished is not None]
    waits = np.array([max(0.0, one.wait) for one in answered])
    answers = np.array([(one.finished or 0.0) - one.arrived for one in answered])
    refused = sum(one.refused for one in seen)
    return Outcome(
        float(np.percentile(waits, 50)),
        float(np.percentile(waits, 99)),
        float(np.percentile(answers, 99)),
        refused / len(seen),
        (len(seen) - refused - len(answered)) / len(seen),
        len(seen),
    )


def measure(case: Case, router: str, number: int, seed: int) -> Outcome:
    """About so many requests, and as many as come in 100 s at least."""
    dice = Random(seed)
    busy = case.busy * case.replicas
    until = max(LEAST_SECONDS, number * case.model.mean_seconds / busy, 25 * case.model.mean_seconds)
    habits = Habits(case.model.pass_seconds, case.period, life=case.life, spread=case.spread)
    shares = [1.0] * case.routers
    if case.uneven:
        shares[0] = case.routers - 1.0
    fleet = Fleet(habits, routers(router, case.routers, dice), case.replicas, Random(seed + 1), shares)
    coming = requests(case.model, lambda _: busy, busy, until, np.random.default_rng(seed), case.guess_error)
    return outcome([one for one in fleet.run(coming) if one.arrived > WARM_UP * until])


def rows(case: Case, kinds: Iterable[str], number: int, seeds: Iterable[int]) -> list[Row]:
    # A thousand replicas are an average of their own.
    seeds = list(seeds)[:1] if case.replicas >= 1000 else list(seeds)
    return [Row(str(case), kind, [measure(case, kind, number, seed) for seed in seeds]) for kind in kinds]


HEAD = """\
| case | | p50 wait | p99 wait (least-most) | p99 answer | to two choices | to oracle: wait, answer | refused | lost |
|---|---|---|---|---|---|---|---|---|"""


def lines(found: list[Row]) -> list[str]:
    """A table's lines, of the rows of one case."""
    by = {row.router: row for row in found}

    def over(row: Row, other: str, what: str) -> str:
        base = by[other].middle(what) if other in by else math.nan
        return f"{row.middle(what) / base:.2f}" if base > 0.001 else "-"

    return [
        f"| {row.case} | {row.router} | {row.middle('p50'):.2f} | {row.middle('p99'):.2f}"
        f" ({min(one.p99 for one in row.outcomes):.2f}-{max(one.p99 for one in row.outcomes):.2f})"
        f" | {row.middle('answer_p99'):.2f} | {over(row, 'two choices', 'p99')}"
        f" | {over(row, 'oracle', 'p99')}, {over(row, 'oracle', 'answer_p99')}"
        f" | {row.middle('refused'):.4f} | {row.middle('lost'):.5f} |"
        for row in found
    ]
