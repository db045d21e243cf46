"""Measures against those computed by hand; tests of significance by what they find where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reranker_serve.judgments.measures import answerable, first_relevant, kendall_tau, per_query
from reranker_serve.judgments.significance import Difference, difference, holm, interval

GRADES = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"a": 0}, "q3": {"a": 1}}
RUN = {"q1": {"c": 3.0, "b": 2.0, "a": 1.0, "x": 0.0}, "q2": {"a": 1.0}}


def test_measures_are_those_computed_by_hand_and_zero_where_there_is_no_ranking() -> None:
    values = per_query(GRADES, RUN, 2)
    ideal = 2 + 1 / math.log2(3)
    assert values["nDCG@2"] == pytest.approx([1 / math.log2(3) / ideal, 0, 0])
    assert values["MRR@2"] == pytest.approx([1 / 2, 0, 0])
    assert values["R@2"] == pytest.approx([1 / 2, 0, 0])
    assert values["judged@2"] == pytest.approx([1, 1, 0])
    unjudged = per_query({"q": {"a": 1}}, {"q": {"x": 2.0, "a": 1.0}}, 2)
    assert unjudged["judged@2"] == pytest.approx([1 / 2])
    assert values["MAP"] == pytest.approx([(1 / 2 + 2 / 3) / 2, 0, 0])


def test_queries_that_no_ranking_can_answer_are_known() -> None:
    assert answerable(GRADES) == ["q1", "q3"]


def test_the_rank_of_the_first_relevant_document() -> None:
    assert first_relevant(GRADES["q1"], RUN["q1"]) == 2
    assert first_relevant(GRADES["q2"], RUN["q2"]) is None
    # Of equal scores the later id comes first, as in the measures.
    assert first_relevant({"a": 1}, {"a": 1.0, "b": 1.0}) == 2


@pytest.mark.parametrize(
    ("second", "tau"),
    [([4, 3, 2, 1], 1.0), ([1, 2, 3, 4], -1.0), ([3, 4, 2, 1], 2 / 3), ([2, 2, 1, 1], 4 / math.sqrt(6 * 4))],
)
def test_kendall_tau(second: list[float], tau: float) -> None:
    assert kendall_tau([4.0, 3.0, 2.0, 1.0], second) == pytest.approx(tau)


def test_kendall_tau_of_what_has_no_order() -> None:
    assert math.isnan(kendall_tau([1.0, 1.0], [1.0, 2.0]))


# --- significance ---


def ndcg(rng: np.random.Generator, queries: int) -> np.ndarray:
    """As nDCG is spread: many queries at 0 and at 1."""
    return np.clip(rng.normal(0.6, 0.5, queries), 0, 1)


def test_the_same_scores_are_no_difference() -> None:
    values = ndcg(np.random.default_rng(0), 100)
    assert difference(values, values) == Difference(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("queries", [20, 200])
def test_two_that_are_equally_good_are_told_apart_in_at_most_five_of_a_hundred(queries: int) -> None:
    """Which of two values of a query is whose is by chance, so that neither is better."""
    told = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        first = ndcg(rng, queries)
        second = np.clip(first + rng.normal(0, 0.2, queries), 0, 1)
        swapped = rng.random(queries) < 0.5
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        told += difference(one, other, seed, 1000).found
    assert told <= 5


def test_one_that_is_worse_is_found_more_surely_with_more_queries() -> None:
    def found(queries: int) -> int:
        count = 0
        for seed in range(40):
            rng = np.random.default_rng(seed)
            first = ndcg(rng, queries)
            worse = np.clip(first - 0.04 + rng.normal(0, 0.2, queries), 0, 1)
            told = difference(first, worse, seed, 1000)
            assert not (told.found and told.mean > 0)
            count += told.found
        return count

    few, many = found(20), found(500)
    assert few < 15
    assert many >= 38


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        low, high = interval(rng.random(100), seed, 1000)
        held += low <= 0.5 <= high
    assert 180 <= held <= 198


def test_resamples_are_the_same_with_the_seed_and_bounded_in_memory() -> None:
    values = np.random.default_rng(0).random(100_000)
    assert interval(values, 1, 100) == interval(values, 1, 100) != interval(values, 2, 100)


def test_several_comparisons_are_corrected() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
