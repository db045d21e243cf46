"""What comes: requests of heavy-tailed sizes, at a rate that is steady or follows the day."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.fleet.replica import Request

SMALLEST, LARGEST, TAIL = 10.0, 1000.0, 1.1


@dataclass(frozen=True, slots=True)
class Model:
    """As measured over HTTP on two cores with AVX512-BF16 of an AMD EPYC, pairs of mixed lengths (workload A)."""

    tokens_per_second: float
    tokens_per_pair: float
    pass_tokens: int
    overhead: float = 0.0027  # tokenizing, queue and reply of a request (`benchmarks/results/server.md`)

    @property
    def seconds_per_document(self) -> float:
        return self.tokens_per_pair / self.tokens_per_second

    @property
    def pass_seconds(self) -> float:
        return self.pass_tokens / self.tokens_per_second

    @property
    def mean_seconds(self) -> float:
        """Of a request."""
        return self.overhead + mean_documents() * self.seconds_per_document


SMALL = Model(23_094, 189, 4096)  # MiniLM-L6: benchmarks/results/small.md
BASE = Model(2_074, 189, 2048)  # XLM-RoBERTa base: benchmarks/results/cpu.md


def mean_documents() -> float:
    """Of a Pareto distribution that is cut at both ends."""
    low, high, tail = SMALLEST, LARGEST, TAIL
    return float(low**tail / (1 - (low / high) ** tail) * tail / (1 - tail) * (high ** (1 - tail) - low ** (1 - tail)))


def documents(dice: np.random.Generator, number: int) -> NDArray[np.float64]:
    """Sizes of so many requests: half have fewer than 20 documents, one in a hundred has hundreds."""
    kept = float((SMALLEST / LARGEST) ** TAIL)
    return SMALLEST * np.power(1 - dice.random(number) * (1 - kept), -1 / TAIL)


def requests(
    model: Model,
    busy: Callable[[float], float],
    most_busy: float,
    until: float,
    dice: np.random.Generator,
    guess_error: float | None,
) -> Iterator[Request]:
    """At random (Poisson), so many a second that they keep `busy(time)` replicas busy, at most `most_busy`.

    A router's guess of a request's work is wrong by a factor whose logarithm is normal, of deviation `guess_error`;
    None: it sees no sizes.
    """
    now, some = 0.0, 10_000
    while True:
        gaps = dice.exponential(model.mean_seconds / most_busy, some).tolist()
        sizes = (model.overhead + documents(dice, some) * model.seconds_per_document).tolist()
        error = guess_error or 0.0
        wrong = np.exp(dice.normal(-(error**2) / 2, error, some)).tolist()
        kept = dice.random(some).tolist()
        for gap, seconds, factor, chance in zip(gaps, sizes, wrong, kept, strict=True):
            now += gap
            if now > until:
                return
            if chance * most_busy < busy(now):
                yield Request(now, seconds, model.mean_seconds if guess_error is None else seconds * factor)


def day(least: float, most: float, length: float) -> Callable[[float], float]:
    """Replicas that are busy: least at the beginning and the end of the day, most in its middle."""

    def busy(now: float) -> float:
        share = (1 - math.cos(2 * math.pi * now / length)) / 2
        return least + (most - least) * share

    return busy
