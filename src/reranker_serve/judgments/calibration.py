"""From scored and judged pairs to probabilities: fits the curve, and measures how far it can be trusted.

Whatever is resampled or split is so by query, as the pairs of a query are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker_serve.calibration import Estimate, Isotonic, Platt
from reranker_serve.errors import StartupError
from reranker_serve.judgments.extras import require

Values = NDArray[np.float64]
Curve = Platt | Isotonic
# Lowest and highest of the middle 95 % of the resamples.
Interval = tuple[float, float]

_FOLDS = 5
_BINS = 10
_RESAMPLES = 1000
_SEED = 0
_LEAST_SLOPE = 1e-9


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """[pairs] each: raw `scores` in units of `Encoded.unit`, `relevance` as callers see it, the label, and the number
    of the `query`."""

    scores: Values
    relevance: Values
    relevant: NDArray[np.bool_]
    query: NDArray[np.int64]

    @property
    def queries(self) -> int:
        return len(np.unique(self.query))

    def where(self, chosen: NDArray[np.bool_]) -> ScoredPairs:
        return ScoredPairs(self.scores[chosen], self.relevance[chosen], self.relevant[chosen], self.query[chosen])

    def split(self, share: float) -> tuple[ScoredPairs, ScoredPairs]:
        """Two parts, the second with that share of the queries, drawn by a fixed seed."""
        queries = np.random.default_rng(_SEED).permutation(np.unique(self.query))
        second = np.isin(self.query, queries[: round(share * len(queries))])
        return self.where(~second), self.where(second)


@dataclass(frozen=True, slots=True)
class Fit:
    """The better `curve`; `brier` of each method, and the better one's `probabilities`, by curves that were fitted to
    other queries."""

    curve: Curve
    brier: dict[str, float]
    probabilities: Values


@dataclass(frozen=True, slots=True)
class Above:
    """What a threshold lets through: how many pairs, which share of them is relevant, and which share of the relevant
    ones they are; None where nothing is above."""

    pairs: int
    precision: Estimate | None
    recall: Estimate


def fit(pairs: ScoredPairs) -> Fit:
    """Platt's curve or an isotonic one, whose Brier score in a cross-validation is lower. Raises `StartupError` if the
    pairs allow none."""
    if pairs.queries < 2:
        raise StartupError("one judged query is too few: judge documents of at least two, better of fifty")
    if pairs.relevant.all() or not pairs.relevant.any():
        missing = "relevant" if not pairs.relevant.any() else "irrelevant"
        raise StartupError(f"no pair is judged {missing}, and a calibration needs both kinds")
    if pairs.scores[pairs.relevant].mean() <= pairs.scores[~pairs.relevant].mean():
        raise StartupError("relevant pairs score no higher than irrelevant ones: there is nothing to calibrate")
    methods: dict[str, Callable[[ScoredPairs], Curve]] = {"platt": platt, "isotonic": isotonic}
    unseen = {name: _unseen(pairs, method) for name, method in methods.items()}
    brier = {name: float(np.mean((values - pairs.relevant) ** 2)) for name, values in unseen.items()}
    best = min(brier, key=brier.__getitem__)
    return Fit(methods[best](pairs), brier, unseen[best])


def platt(pairs: ScoredPairs) -> Platt:
    """Fitted to targets a little off 0 and 1, as Platt has it, so that few pairs do not make it certain."""
    linear_model = require("sklearn.linear_model")
    positives = int(pairs.relevant.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(pairs.relevant) - positives + 2)
    target = np.where(pairs.relevant, high, low)
    # A target between 0 and 1 is a pair that is relevant by one weight and irrelevant by another.
    model = linear_model.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    both = np.concatenate([pairs.scores, pairs.scores])[:, None]
    labels = np.repeat([1, 0], len(target))
    model.fit(both, labels, sample_weight=np.concatenate([target, 1 - target]))
    return Platt(slope=max(float(model.coef_[0, 0]), _LEAST_SLOPE), intercept=float(model.intercept_[0]))


def isotonic(pairs: ScoredPairs) -> Isotonic:
    """The rising steps that are nearest to the labels (pool adjacent violators), joined by lines."""
    model = require("sklearn.isotonic").IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(pairs.scores, pairs.relevant.astype(np.float64))
    return Isotonic(scores=tuple(model.X_thresholds_.tolist()), probabilities=tuple(model.y_thresholds_.tolist()))


def calibration_error(probabilities: Values, pairs: ScoredPairs) -> Estimate:
    """Expected calibration error: in ten bins of as many pairs, how far the mean probability is from the share that is
    relevant. Naeini, Cooper and Hauskrecht, AAAI 2015.

    A resample's error is larger by what chance adds to each bin, so the interval is moved down by the mean excess.
    """
    place = _bins(probabilities)
    gaps = _by_query(pairs, place, probabilities - pairs.relevant)
    counts = _by_query(pairs, place, np.ones(len(place))).sum(axis=1)

    def error(weights: Values) -> Values:
        errors: Values = np.abs(weights @ gaps).sum(axis=1) / (weights @ counts)
        return errors

    found = _estimate(error, len(counts))
    excess = float(error(resampled(len(counts))).mean()) - found.value
    return found.model_copy(update={"low": max(0.0, found.low - excess), "high": max(found.value, found.high - excess)})


def reliability(probabilities: Values, pairs: ScoredPairs) -> tuple[Values, Values]:
    """Of each bin the mean probability and the share that is relevant."""
    place = _bins(probabilities)
    count = np.bincount(place)
    return np.bincount(place, probabilities) / count, np.bincount(place, pairs.relevant) / count


def above(least: float, probabilities: Values, pairs: ScoredPairs) -> Above:
    """What a `min_probability` lets through."""
    kept = probabilities >= least
    everything = np.zeros(len(kept), np.int64)
    counts = _by_query(pairs, everything, kept)[:, 0]
    hits = _by_query(pairs, everything, kept & pairs.relevant)[:, 0]
    relevant = _by_query(pairs, everything, pairs.relevant)[:, 0]
    recall = _estimate(lambda weights: _share(weights @ hits, weights @ relevant), len(counts))
    if not kept.any():
        return Above(0, None, recall)
    precision = _estimate(lambda weights: _share(weights @ hits, weights @ counts), len(counts))
    return Above(int(kept.sum()), precision, recall)


def _unseen(pairs: ScoredPairs, method: Callable[[ScoredPairs], Curve]) -> Values:
    """Each pair's probability by a curve that was fitted to other queries."""
    folds = require("sklearn.model_selection").GroupKFold(min(_FOLDS, pairs.queries), shuffle=True, random_state=_SEED)
    found = np.zeros(len(pairs.scores))
    for seen, unseen in folds.split(pairs.scores, groups=pairs.query):
        chosen = np.zeros(len(found), np.bool_)
        chosen[seen] = True
        found[unseen] = method(pairs.where(chosen)).probability(pairs.scores[unseen])
    return found


def _bins(probabilities: Values) -> NDArray[np.int64]:
    """The number of each pair's bin; equal probabilities share one."""
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, _BINS + 1)[1:-1]))
    place = np.searchsorted(edges, probabilities, side="right")
    return np.unique(place, return_inverse=True)[1]


def _by_query(pairs: ScoredPairs, column: NDArray[np.int64], values: NDArray[np.generic]) -> Values:
    """Sums of `values`, [queries, columns]."""
    row = np.unique(pairs.query, return_inverse=True)[1]
    sums = np.zeros((row.max() + 1, column.max() + 1))
    np.add.at(sums, (row, column), values)
    return sums


def _share(part: Values, whole: Values) -> Values:
    """NaN where there is nothing."""
    shares: Values = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares


def _estimate(statistic: Callable[[Values], Values], queries: int) -> Estimate:
    """`statistic` of weights, [resamples, queries] -> [resamples], once as it is and for its interval."""
    once = statistic(np.ones((1, queries)))
    low, high = interval(statistic(resampled(queries)))
    return Estimate(value=float(once[0]), low=low, high=high)


def interval(values: Values) -> Interval:
    if np.isnan(values).all():
        return (0.0, 1.0)
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def resampled(queries: int) -> Values:
    """How often each query is drawn, [resamples, queries]; the same each time."""
    rng = np.random.default_rng(_SEED)
    return rng.multinomial(queries, np.full(queries, 1 / queries), size=_RESAMPLES).astype(np.float64)
