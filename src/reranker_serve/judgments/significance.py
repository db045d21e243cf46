"""Whether a difference is more than the choice of queries.

Paired, by query: a bootstrap for the interval and a randomization test for the probability, as Smucker, Allan and
Carterette (CIKM 2007) compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reranker_serve.judgments.measures import Values

RESAMPLES = 10_000
CONFIDENCE = 0.95
_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first: the mean, its interval, and how probable so large a one is if both are equally good."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def found(self) -> bool:
        """Both the interval and the test say that one is better."""
        return self.p <= 1 - CONFIDENCE and (self.low > 0 or self.high < 0)


def interval(values: Values, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Of the mean: bootstrap, percentiles."""
    count = len(values)

    def means(rng: np.random.Generator, rows: int) -> Values:
        return rng.multinomial(count, np.full(count, 1 / count), size=rows) @ values / count

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(_resampled(means, count, seed, resamples), (tail, 1 - tail))
    return float(low), float(high)


def difference(first: Values, second: Values, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Of the means over the same queries, in the same order."""
    each = second - first

    def flipped(rng: np.random.Generator, rows: int) -> Values:
        return (rng.integers(0, 2, size=(rows, len(each)), dtype=np.int8) * 2.0 - 1.0) @ each / len(each)

    mean = float(each.mean())
    by_chance = np.abs(_resampled(flipped, len(each), seed, resamples))
    # As large but for rounding; the one that was observed counts as one of them.
    p = (1 + int((by_chance >= abs(mean) - 1e-12).sum())) / (1 + resamples)
    return Difference(mean, *interval(each, seed, resamples), p)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Corrected for there being several comparisons (Holm 1979), in their order."""
    corrected, most = [0.0] * len(probabilities), 0.0
    for place, index in enumerate(np.argsort(probabilities, kind="stable")):
        most = max(most, min(1.0, (len(probabilities) - place) * probabilities[index]))
        corrected[index] = most
    return corrected


def _resampled(draw: Callable[[np.random.Generator, int], Values], count: int, seed: int, resamples: int) -> Values:
    rng = np.random.default_rng(seed)
    return np.concatenate([draw(rng, rows) for rows in _batches(resamples, max(1, _NUMBERS_AT_ONCE // count))])


def _batches(total: int, most: int) -> Iterator[int]:
    while total > 0:
        yield min(total, most)
        total -= most
