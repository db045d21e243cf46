"""What admission and order are worth under load: the server's own scheduler on a virtual clock, without a model.

    python -m benchmarks.scheduling [--seconds 600] [--size 50] [--json FILE]

Requests come at random (Poisson) at 0.9 to 5 times what the model can compute, each to be answered within a time of its
own. A forward pass takes what it would on two CPU cores with a model of MiniLM's size, give or take a fifth. Each row
is computed for the present policy and for the one before it: requests take turns, new ones first, and come in as long
as there are fewer than 2,000,000 tokens. Goodput counts the tokens of requests that were answered in time, `wasted` the
tokens computed for others, `offered` those that came, all over what the model could compute in the same time.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.job import Job, Unit
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.errors import RequestError
from reranker_serve.types import EncodedItem

BUDGET = 2048
TOKENS_PER_SECOND = 10_000.0
SECONDS_PER_PASS = 0.005
NOISE = 0.2
MAX_TOKENS, MAX_SECONDS = 2_000_000, 30.0

# Pairs of 20 to 512 tokens, 110 in the mean, as search results are.
MEAN_TOKENS = 110
LENGTHS = (math.log(90), 0.6)
LOADS = (0.9, 1.2, 2.0, 5.0)
# Documents a request, and the times within which it is to be answered: twice what it takes alone, at least.
SIZES: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "8": ((8,), (2.0, 6.0, 60.0)),
    "20": ((20,), (2.0, 6.0, 60.0)),
    "50": ((50,), (6.0, 60.0)),
    "1000": ((1000,), (60.0, 300.0)),
    "mixed": ((8, 8, 8, 20, 20, 50, 50, 1000), (60.0, 300.0)),
}
_IDS = np.ones(512, dtype=np.int32)


@dataclass(slots=True)
class Request:
    """One caller's request; `finished` stays None if it was refused or given up."""

    documents: int
    tokens: int
    arrived: float
    due: float
    items: list[EncodedItem]
    refused: bool = False
    finished: float | None = None


class Policy(Protocol):
    def admit(self, request: Request) -> Job:
        """Raises `RequestError`."""
        ...

    def next_batch(self, now: float) -> list[Unit]: ...

    def computed(self, batch: list[Unit], tokens: int, seconds: float, now: float) -> None: ...

    def leave(self, job: Job) -> None:
        """It is answered, or given up."""
        ...


class Present:
    """What the engine does, without its threads."""

    def __init__(self) -> None:
        self._admission = Admission(MAX_TOKENS, MAX_SECONDS, [BUDGET], lambda: 0.0)
        self._admission.learn(BUDGET, SECONDS_PER_PASS + BUDGET / TOKENS_PER_SECOND, 0.0)
        self._scheduler = Scheduler(self._admission.pace)

    def admit(self, request: Request) -> Job:
        promise = Promise(request.tokens, request.due)
        self._admission.admit(promise, request.arrived)
        job = Job(request.items, request.arrived, promise=promise)
        self._scheduler.add(job)
        return job

    def next_batch(self, now: float) -> list[Unit]:
        return self._scheduler.next_batch(BUDGET, now, self._admission.pressing(now))

    def computed(self, batch: list[Unit], tokens: int, seconds: float, now: float) -> None:
        self._admission.learn(tokens, seconds, now)
        for job in {unit.job for unit in batch}:
            self._admission.reduce(job.promise, job.waiting_tokens)

    def leave(self, job: Job) -> None:
        self._admission.forget(job.promise)
        self._scheduler.drop(job)


class Turns:
    """What it was before: a whole batch for who is new, then turns of 512 tokens; every fourth to the oldest."""

    def __init__(self) -> None:
        self._lines: tuple[OrderedDict[int, Job], OrderedDict[int, Job]] = (OrderedDict(), OrderedDict())
        self._since: dict[int, int] = {}
        self._turns = 0
        self._tokens = 0

    def admit(self, request: Request) -> Job:
        if self._tokens + request.tokens > MAX_TOKENS:
            raise RequestError("the queue is full")
        job = Job(request.items, request.arrived)
        self._tokens += request.tokens
        self._line_up(job, 0)
        return job

    def next_batch(self, now: float) -> list[Unit]:
        batch: list[Unit] = []
        room, there = BUDGET, set[int]()
        while any(self._lines):
            job, begun = self._next()
            turn, waiting = min(512, BUDGET) if begun else BUDGET, job.waiting_tokens
            units, tokens = job.take(min(turn, room), room if batch else math.inf, there)
            if not units:
                break
            batch += units
            self._turns += 1
            self._tokens -= waiting - job.waiting_tokens
            if not job.has_waiting:
                self._remove(job)
            elif room >= turn:
                self._remove(job)
                self._line_up(job, 1)
            room -= tokens
        return batch

    def computed(self, batch: list[Unit], tokens: int, seconds: float, now: float) -> None:
        pass

    def leave(self, job: Job) -> None:
        if id(job) in self._since:
            self._remove(job)
            self._tokens -= job.waiting_tokens

    def _next(self) -> tuple[Job, bool]:
        heads = [(next(iter(line.values())), bool(begun)) for begun, line in enumerate(self._lines) if line]
        if self._turns % 4 == 3:
            return min(heads, key=lambda head: self._since[id(head[0])])
        return heads[0]

    def _line_up(self, job: Job, begun: int) -> None:
        self._lines[begun][id(job)] = job
        self._since[id(job)] = self._turns

    def _remove(self, job: Job) -> None:
        del self._since[id(job)]
        for line in self._lines:
            line.pop(id(job), None)


POLICIES: dict[str, type[Present] | type[Turns]] = {"before": Turns, "present": Present}


@dataclass
class Clock:
    """One model that computes one batch after the other."""

    policy: Policy
    noise: random.Random
    now: float = 0.0
    computed: int = 0
    _waiting: dict[Job, Request] = field(default_factory=dict)
    _dues: list[tuple[float, int, Job]] = field(default_factory=list)

    def run(self, requests: Iterator[Request], until: float) -> list[Request]:
        """Everything that comes in until then, and what became of it."""
        seen: list[Request] = []
        coming = next(requests)
        while coming.arrived < until or self._waiting:
            while coming.arrived <= self.now and coming.arrived < until:
                seen.append(coming)
                self._admit(coming)
                coming = next(requests)
            self._give_up()
            batch = self.policy.next_batch(self.now)
            if batch:
                self._compute(batch)
            elif coming.arrived < until:
                self.now = coming.arrived
            elif self._waiting:
                raise RuntimeError("requests wait, and nothing is computed")
        return seen

    def _admit(self, request: Request) -> None:
        try:
            job = self.policy.admit(request)
        except RequestError:
            request.refused = True
            return
        self._waiting[job] = request
        heapq.heappush(self._dues, (request.due, id(job), job))

    def _give_up(self) -> None:
        while self._dues and self._dues[0][0] <= self.now:
            _, _, job = heapq.heappop(self._dues)
            if self._waiting.pop(job, None):
                job.future.cancel()
                self.policy.leave(job)

    def _compute(self, batch: list[Unit]) -> None:
        tokens = sum(len(unit.item) for unit in batch)
        seconds = (SECONDS_PER_PASS + tokens / TOKENS_PER_SECOND) * self.noise.lognormvariate(0, NOISE)
        self.now += seconds
        self.computed += tokens
        row = np.zeros(1, dtype=np.float32)
        for unit in batch:
            unit.job.started(self.now)
            unit.job.deliver(unit.position, row, self.now)
        self.policy.computed(batch, tokens, seconds, self.now)
        for job in {unit.job for unit in batch}:
            if job.settled and job in self._waiting:
                request = self._waiting.pop(job)
                if self.now <= request.due:
                    request.finished = self.now
                self.policy.leave(job)


def make(documents: int, arrived: float, timeout: float, dice: random.Random) -> Request:
    lengths = [max(20, min(512, int(dice.lognormvariate(*LENGTHS)))) for _ in range(documents)]
    items = [EncodedItem(_IDS[:length], length) for length in lengths]
    return Request(documents, sum(lengths), arrived, arrived + timeout, items)


def poisson(load: float, sizes: tuple[int, ...], timeout: float, dice: random.Random) -> Iterator[Request]:
    """Requests for ever, of `load` times what the model computes; sizes are drawn by their tokens' share."""
    mean = sum(sizes) / len(sizes) * MEAN_TOKENS
    rate = load * capacity() / mean
    now = 0.0
    while True:
        now += dice.expovariate(rate)
        yield make(dice.choice(sizes), now, timeout, dice)


def capacity() -> float:
    """Tokens a second in full batches."""
    return BUDGET / (SECONDS_PER_PASS + BUDGET / TOKENS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Row:
    """Goodput, waste and offer as shares of capacity; seconds of the answered; shares of requests."""

    policy: str
    load: float
    size: str
    timeout: float
    offered: float
    goodput: float
    wasted: float
    p50: float
    p95: float
    p99: float
    refused: float
    late: float

    def __str__(self) -> str:
        shares = f"{self.offered:.2f} | {self.goodput:.3f} | {self.wasted:.3f}"
        seconds = f"{self.p50:.2f} | {self.p95:.2f} | {self.p99:.2f}"
        return (
            f"| {self.size} | {self.timeout:g} s | {self.load:g} | {self.policy} | {shares} | {seconds}"
            f" | {self.refused:.3f} | {self.late:.3f} |"
        )


HEAD = """\
| documents | within | load | policy | offered | goodput | wasted | p50 s | p95 s | p99 s | refused | late |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def measure(policy: str, load: float, size: str, timeout: float, seconds: float, seed: int = 1) -> Row:
    dice = random.Random(seed)
    clock = Clock(POLICIES[policy](), random.Random(seed + 1))
    seen = clock.run(poisson(load, SIZES[size][0], timeout, dice), seconds)
    answered = [request for request in seen if request.finished is not None]
    times = sorted(request.finished - request.arrived for request in answered if request.finished is not None)
    refused = sum(request.refused for request in seen) / len(seen)
    could = capacity() * max(seconds, clock.now)
    good = sum(request.tokens for request in answered)
    return Row(
        policy,
        load,
        size,
        timeout,
        sum(request.tokens for request in seen) / capacity() / seconds,
        good / could,
        (clock.computed - good) / could,
        *(_percentile(times, share) for share in (0.5, 0.95, 0.99)),
        refused,
        max(0.0, 1 - refused - len(answered) / len(seen)),
    )


def _percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else math.nan


def ten_beside_a_thousand(policy: str, requests: int = 300, seed: int = 1) -> float:
    """How many times longer ten documents take beside requests of a thousand than alone, medians."""

    def median(beside: bool) -> float:
        dice = random.Random(seed)

        def coming() -> Iterator[Request]:
            now = 0.0
            while True:
                now += dice.uniform(0.5, 1.5)
                if beside and int(now) % 20 == 0:
                    yield make(1000, now, 300, dice)
                yield make(10, now, 300, dice)

        seen = Clock(POLICIES[policy](), random.Random(seed + 1)).run(coming(), requests)
        times = [one.finished - one.arrived for one in seen if one.documents == 10 and one.finished is not None]
        return _percentile(sorted(times), 0.5)

    return median(True) / median(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="virtual seconds of each row")
    parser.add_argument("--size", choices=SIZES, help="only this row's kind")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    rows: list[Row] = []
    print(HEAD)
    for size in [arguments.size] if arguments.size else SIZES:
        for timeout, load, policy in itertools.product(SIZES[size][1], LOADS, POLICIES):
            rows.append(measure(policy, load, size, timeout, max(arguments.seconds, 10 * timeout)))
            print(rows[-1], flush=True)
    beside = {policy: ten_beside_a_thousand(policy) for policy in POLICIES}
    print("\nTen documents beside a thousand take", end="")
    print(", ".join(f" {times:.2f} ({policy})" for policy, times in beside.items()), "times as long as alone.")
    if arguments.json:
        found = {"rows": [asdict(row) for row in rows], "ten_beside_a_thousand": beside}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
