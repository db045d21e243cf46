"""The threshold that gives a precision, or a recall, on judged pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reranker_serve.judgments.calibration import Interval, ScoredPairs, Values, interval, resampled

Goal = Literal["precision", "recall"]

# Thresholds that are tried, at most.
_LEVELS = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """`probability` and `relevance` let the same pairs through; `interval` is the probability's."""

    probability: float
    relevance: float
    interval: Interval


def find(goal: Goal, at_least: float, probabilities: Values, pairs: ScoredPairs) -> Found | None:
    """The lowest threshold of that precision, or the highest of that recall. None if there is no such precision."""
    cuts = _Cuts(probabilities, pairs)
    chosen = cuts.choose(np.ones((1, cuts.queries)), goal, at_least)[0]
    if chosen < 0:
        return None
    kept = probabilities >= cuts.levels[chosen]
    again = cuts.choose(resampled(cuts.queries), goal, at_least)
    # Where a resample has no such precision, not even certainty gives it.
    levels = np.where(again < 0, 1.0, cuts.levels[again])
    return Found(_between(probabilities, kept), _between(pairs.relevance, kept), interval(levels))


def best_precision(probabilities: Values, pairs: ScoredPairs) -> float:
    """The highest that any threshold gives."""
    cuts = _Cuts(probabilities, pairs)
    return float((cuts.hits.sum(axis=0) / cuts.kept.sum(axis=0)).max())


class _Cuts:
    """What is above each of many thresholds, query by query: `kept` pairs and `hits` among them, [queries, levels].

    The levels are the probabilities of relevant pairs, highest first: between them precision only falls.
    """

    def __init__(self, probabilities: Values, pairs: ScoredPairs) -> None:
        levels = np.unique(probabilities[pairs.relevant])[::-1]
        if len(levels) > _LEVELS:
            levels = levels[np.linspace(0, len(levels) - 1, _LEVELS).round().astype(np.int64)]
        row = np.unique(pairs.query, return_inverse=True)[1]
        self.levels = levels
        self.queries = int(row.max()) + 1
        # Of each pair the first level that lets it through.
        first = np.searchsorted(-levels, -probabilities, side="left")
        self.kept = self._sums(row, first, np.ones(len(row), np.bool_))
        self.hits = self._sums(row, first, pairs.relevant)
        self._relevant = np.bincount(row, pairs.relevant, self.queries)

    def choose(self, weights: Values, goal: Goal, at_least: float) -> NDArray[np.int64]:
        """For each row of weights, [rows, queries], a level's index; -1 if none will do."""
        hits, kept = weights @ self.hits, weights @ self.kept
        if goal == "precision":
            enough = (hits >= at_least * kept) & (hits > 0)
            last = len(self.levels) - 1 - np.argmax(enough[:, ::-1], axis=1)
            return np.where(enough.any(axis=1), last, -1)
        enough = hits >= at_least * (weights @ self._relevant)[:, None]
        return np.where(enough.any(axis=1), np.argmax(enough, axis=1), -1)

    def _sums(self, row: NDArray[np.int64], first: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Values:
        sums = np.zeros((self.queries, len(self.levels) + 1))
        np.add.at(sums, (row, first), chosen)
        return sums[:, :-1].cumsum(axis=1)


def _between(values: Values, kept: NDArray[np.bool_]) -> float:
    """The shortest number that parts what is kept from what is not; a rest that scores as high is kept as well."""
    lowest = float(values[kept].min())
    beyond = float(values[~kept].max(initial=-math.inf))
    for digits in range(2, 17):
        short: float = math.floor(lowest * 10**digits) / 10**digits
        if beyond < short <= lowest:
            return short
    return lowest
