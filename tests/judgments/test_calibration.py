"""The curve that is fitted, and the figures beside it: against what the pairs were drawn from, and by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from reranker_serve.calibration import Isotonic, Platt
from reranker_serve.errors import StartupError
from reranker_serve.judgments.calibration import (
    ScoredPairs,
    Values,
    above,
    calibration_error,
    fit,
    isotonic,
    platt,
    reliability,
)
from reranker_serve.judgments.thresholds import best_precision, find

TRUE = Platt(slope=2.0, intercept=-1.0)


def steps(scores: Values) -> Values:
    """A probability that no sigmoid has."""
    return np.where(scores > 0, 0.6, 0.3)


def draw(
    queries: int, documents: int, seed: int = 0, probability: Callable[[Values], Values] = TRUE.probability
) -> ScoredPairs:
    """Pairs that are relevant by that probability of their scores; each query's scores are moved together."""
    rng = np.random.default_rng(seed)
    query = np.repeat(np.arange(queries), documents)
    scores = rng.normal(size=queries)[query] + rng.normal(size=len(query))
    return pairs(scores, rng.random(len(query)) < probability(scores), query)


def pairs(scores: object, relevant: object, query: object) -> ScoredPairs:
    values = np.asarray(scores, np.float64)
    return ScoredPairs(values, 1 / (1 + np.exp(-values)), np.asarray(relevant, np.bool_), np.asarray(query, np.int64))


def test_platt_finds_the_curve_the_pairs_were_drawn_from() -> None:
    found = platt(draw(400, 50))
    assert (found.slope, found.intercept) == pytest.approx((2.0, -1.0), abs=0.1)


def test_platt_is_not_certain_where_few_pairs_are_parted_without_error() -> None:
    found = platt(pairs([-2, -1, 1, 2], [False, False, True, True], [0, 0, 1, 1]))
    assert 0.02 < found.probability(np.array([-2.0]))[0] < found.probability(np.array([2.0]))[0] < 0.98


def test_isotonic_finds_steps() -> None:
    found = isotonic(draw(400, 50, probability=steps)).probability(np.array([-1.0, 1.0]))
    np.testing.assert_allclose(found, [0.3, 0.6], atol=0.05)


def test_the_better_curve_is_chosen() -> None:
    assert isinstance(fit(draw(60, 20)).curve, Platt)
    assert isinstance(fit(draw(200, 50, probability=steps)).curve, Isotonic)


@pytest.mark.parametrize("probability", [TRUE.probability, steps])
def test_what_is_measured_is_measured_on_other_queries(probability: Callable[[Values], Values]) -> None:
    """With other labels of one query its own probabilities stay as they were, and others' do not."""
    drawn = draw(20, 10, probability=probability)
    turned = pairs(drawn.scores, np.where(drawn.query == 3, ~drawn.relevant, drawn.relevant), drawn.query)
    before, after = fit(drawn).probabilities, fit(turned).probabilities
    np.testing.assert_array_equal(before[drawn.query == 3], after[drawn.query == 3])
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("scores", "relevant", "query", "said"),
    [
        ([0, 1, 2], [True, False, True], [7, 7, 7], "one judged query"),
        ([0, 1, 2], [True, True, True], [0, 1, 1], "no pair is judged irrelevant"),
        ([0, 1, 2], [False, False, False], [0, 1, 1], "no pair is judged relevant"),
        ([0, 1, 2], [True, False, False], [0, 1, 1], "no higher"),
        ([1, 1, 1], [True, False, False], [0, 1, 1], "no higher"),
    ],
)
def test_pairs_that_allow_no_curve_are_told(scores: object, relevant: object, query: object, said: str) -> None:
    with pytest.raises(StartupError, match=said):
        fit(pairs(scores, relevant, query))


@pytest.mark.parametrize("queries", [2, 3, 7])
def test_few_queries_are_enough_for_a_curve(queries: int) -> None:
    assert isinstance(fit(draw(queries, 30)).curve, Platt | Isotonic)


def test_the_error_is_how_far_probabilities_are_off() -> None:
    drawn = draw(400, 50)
    true = TRUE.probability(drawn.scores)
    assert calibration_error(true, drawn).value < 0.01
    off = calibration_error(np.clip(true + 0.2, 0, 2), drawn)
    assert off.value == pytest.approx(0.2, abs=0.01)
    assert 0.18 < off.low < off.value < off.high < 0.22


def test_the_error_by_hand() -> None:
    """Two bins: 0.2 where half is relevant, 0.6 where all are."""
    judged = pairs([0, 0, 0, 0, 1, 1], [True, True, False, False, True, True], [0, 0, 1, 1, 2, 2])
    predicted = np.array([0.2, 0.2, 0.2, 0.2, 0.6, 0.6])
    assert calibration_error(predicted, judged).value == pytest.approx(4 / 6 * 0.3 + 2 / 6 * 0.4)
    np.testing.assert_allclose(reliability(predicted, judged), [[0.2, 0.6], [0.5, 1.0]])


def test_of_few_queries_the_errors_interval_has_the_error() -> None:
    for seed in range(20):
        drawn = draw(12, 5, seed)
        found = calibration_error(platt(drawn).probability(drawn.scores), drawn)
        assert found.low <= found.value <= found.high


def test_calibrating_lessens_the_error_on_other_queries() -> None:
    fitted, others = draw(100, 30).split(0.5)
    probabilities = fit(fitted).curve.probability(others.scores)
    after, before = calibration_error(probabilities, others), calibration_error(others.relevance, others)
    assert after.high < before.low


def test_a_split_parts_queries_and_is_the_same_each_time() -> None:
    drawn = draw(11, 4)
    first, second = drawn.split(0.4)
    assert second.queries == 4
    assert not set(first.query) & set(second.query)
    assert len(first.scores) + len(second.scores) == 44
    np.testing.assert_array_equal(drawn.split(0.4)[1].query, second.query)


def test_what_is_above_by_hand() -> None:
    judged = pairs([0, 1, 2, 3], [False, True, False, True], [0, 0, 1, 1])
    found = above(0.5, np.array([0.1, 0.4, 0.5, 0.9]), judged)
    assert found.precision is not None
    assert (found.pairs, found.precision.value, found.recall.value) == (2, 0.5, 0.5)
    nothing = above(0.95, np.array([0.1, 0.4, 0.5, 0.9]), judged)
    assert (nothing.pairs, nothing.precision, nothing.recall.value) == (0, None, 0.0)


def test_pairs_of_one_query_count_as_one_observation() -> None:
    """The same pairs ten times in each query tell nothing new: intervals stay."""
    drawn = draw(20, 5)
    tenfold = ScoredPairs(
        *(np.repeat(part, 10) for part in (drawn.scores, drawn.relevance, drawn.relevant, drawn.query))
    )
    once, often = (above(0.5, TRUE.probability(part.scores), part).precision for part in (drawn, tenfold))
    assert once is not None
    assert once == often
    assert once.high - once.low > 0.05


def test_intervals_hold_what_is_true_about_as_often_as_they_say() -> None:
    everything = draw(20_000, 10)
    true = above(0.5, TRUE.probability(everything.scores), everything).precision
    held = 0
    for seed in range(1, 101):
        part = draw(60, 10, seed)
        found = above(0.5, TRUE.probability(part.scores), part).precision
        assert found is not None
        assert true is not None
        held += found.low <= true.value <= found.high
    assert 88 <= held <= 100


JUDGED = pairs([5, 4, 3, 2, 1, 0], [True, True, False, True, False, True], [0, 0, 1, 1, 2, 2])
PROBABLE = np.array([0.91, 0.823, 0.65, 0.6, 0.2, 0.1])


@pytest.mark.parametrize(
    ("goal", "at_least", "kept"),
    [
        ("precision", 1.0, 2),
        ("precision", 0.75, 4),
        ("precision", 0.5, 6),
        ("recall", 0.5, 2),
        ("recall", 0.51, 4),
        ("recall", 1.0, 6),
    ],
)
def test_the_threshold_by_hand(goal: str, at_least: float, kept: int) -> None:
    found = find(goal, at_least, PROBABLE, JUDGED)  # type: ignore[arg-type]
    assert found is not None
    assert (found.probability <= PROBABLE).sum() == kept
    assert (JUDGED.relevance >= found.relevance).sum() == kept
    assert found.interval[0] <= found.probability + 0.01


def test_thresholds_are_short_numbers() -> None:
    found = find("precision", 1.0, PROBABLE, JUDGED)
    assert found is not None
    assert (found.probability, found.relevance) == (0.82, 0.98)


def test_a_precision_that_no_threshold_has() -> None:
    judged = pairs([2, 1, 0], [False, True, False], [0, 1, 2])
    assert find("precision", 0.9, np.array([0.9, 0.5, 0.1]), judged) is None
    assert best_precision(np.array([0.9, 0.5, 0.1]), judged) == 0.5


def test_equal_probabilities_are_let_through_together() -> None:
    judged = pairs([3, 2, 1], [True, False, True], [0, 1, 2])
    found = find("precision", 0.6, np.array([0.5, 0.5, 0.5]), judged)
    assert found is not None
    assert found.probability == 0.5
    assert find("precision", 0.7, np.array([0.5, 0.5, 0.5]), judged) is None


def test_a_precision_is_kept_on_other_queries() -> None:
    fitted, others = draw(600, 30).split(0.5)
    curve = fit(fitted).curve
    found = find("precision", 0.9, curve.probability(fitted.scores), fitted)
    assert found is not None
    reached = above(found.probability, curve.probability(others.scores), others).precision
    assert reached is not None
    assert reached.value == pytest.approx(0.9, abs=0.02)


def test_more_pairs_than_thresholds_that_are_tried() -> None:
    drawn = draw(200, 50)
    found = find("recall", 0.8, TRUE.probability(drawn.scores), drawn)
    assert found is not None
    recall = above(found.probability, TRUE.probability(drawn.scores), drawn).recall
    assert recall.value == pytest.approx(0.8, abs=0.003)
    assert recall.value >= 0.8
