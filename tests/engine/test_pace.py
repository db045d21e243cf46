from __future__ import annotations

import pytest

from reranker_serve.engine.pace import Density, Pace, Paces


def learned(*passes: tuple[int, float]) -> Pace:
    pace = Pace()
    for tokens, seconds in passes:
        pace.learn(tokens, seconds)
    return pace


@pytest.mark.parametrize(
    ("passes", "seconds"),
    [
        pytest.param([], 0.0, id="nothing was learned"),
        pytest.param([(1000, 0.0)], 0.0, id="a clock that stood still"),
        pytest.param([(1000, 1.0)], 1.0, id="one pass"),
        pytest.param([(1000, 1.0), (1000, 1.5)], 1.05, id="the next changes a tenth"),
        pytest.param([(1000, 1.0), (1000, 60.0)], 1.1, id="one that took ever so long counts as twice"),
        pytest.param([(1000, 1.0), (1000, 0.01)], 0.95, id="and one of no time as half"),
        pytest.param([(1000, 1.0), (499, 9.0)], 1.0, id="a small one tells nothing of full ones"),
        pytest.param([(10, 1.0), (1000, 1.0)], 1.0, id="but counts until there is one"),
        pytest.param([(1000, 1.0), (400, 0.36)], 0.99, id="and if it took less"),
    ],
)
def test_what_a_thousand_tokens_take(passes: list[tuple[int, float]], seconds: float) -> None:
    assert learned(*passes).seconds(1000) == pytest.approx(seconds)


def test_what_can_be_computed_in_a_time() -> None:
    assert Pace().tokens(1.0) is None
    assert learned((1000, 2.0)).tokens(1.0) == pytest.approx(500)


def test_a_machine_that_became_slower_for_good_is_noticed() -> None:
    assert learned((1000, 1.0), *[(1000, 1.0)] * 9, *[(1000, 5.0)] * 3).seconds(1000) == pytest.approx(5.0)
    assert learned((1000, 1.0), *[(1000, 1.0)] * 9, *[(1000, 5.0)] * 2).seconds(1000) < 1.3


def test_an_item_longer_than_a_full_pass_tells_nothing_of_others() -> None:
    pace = Pace(full=2048)
    pace.learn(2048, 2.048)
    pace.learn(8192, 80.0)
    assert pace.seconds(1000) == pytest.approx(1.0)
    pace.learn(2048, 4.096)
    assert pace.seconds(1000) == pytest.approx(1.1)


def test_a_machine_that_became_slower_and_computes_small_passes_only_is_noticed() -> None:
    """As it does for callers who take what there is: their passes are made to be short."""
    pace = Pace(full=2048)
    pace.learn(2048, 2.048)
    for _ in range(200):
        pace.learn(500, 1.5)
    assert pace.seconds(1000) == pytest.approx(3.0, rel=0.05)


def test_passes_of_a_few_tokens_never_tell_of_full_ones() -> None:
    pace = Pace(full=2048)
    pace.learn(2048, 2.048)
    for _ in range(1000):
        pace.learn(100, 1.0)
    assert pace.seconds(1000) == pytest.approx(1.0)


def test_the_density_of_texts_follows_what_was_tokenized() -> None:
    density = Density(0.3)
    density.learn(0, 0)
    density.learn(1000, 1000)
    assert density.tokens(1000) == 300
    density.learn(1_000_000, 800_000)
    assert density.tokens(1000) == 350  # no request alone changes more than a tenth
    for _ in range(60):
        density.learn(1_000_000, 800_000)
    assert density.tokens(1000) == pytest.approx(800, abs=2)


def paces(*tokens_per_second: float | None, full: int = 100) -> Paces:
    known = Paces([full] * len(tokens_per_second))
    for lane, rate in enumerate(tokens_per_second):
        if rate is not None:
            known.learn(full, full / rate, lane)
    return known


def test_the_rates_of_lanes_add_up_and_those_of_lost_ones_do_not_count() -> None:
    known = paces(1000, 1000, 500)
    assert known.seconds(2500) == pytest.approx(1.0)
    known.lose(1)
    known.lose(1)
    known.learn(100, 0.1, 1)
    assert known.seconds(1500) == pytest.approx(1.0)
    assert known.tokens(1.0, 2) == pytest.approx(500)
    assert known.tokens(1.0, 1) is None
    known.lose(0)
    known.lose(2)
    assert known.seconds(500) == pytest.approx(1.0)  # by which nothing is promised any more


def test_one_lane_is_as_fast_as_its_pace() -> None:
    alone, known = Pace(100), paces(777)
    alone.learn(100, 100 / 777)
    assert known.seconds(12345) == alone.seconds(12345)
    assert known.budget(0) == 100
    assert known.pass_seconds == alone.seconds(100)


def test_a_slow_lane_makes_smaller_passes() -> None:
    known = paces(1000, 600, 100)
    assert [known.budget(lane) for lane in range(3)] == [100, 100, pytest.approx(20)]
    assert known.pass_seconds == pytest.approx(0.2)
    known.lose(0)
    known.lose(1)
    assert known.budget(2) == 100
    assert known.pass_seconds == pytest.approx(1.0)


def test_a_lane_that_becomes_fast_again_gets_full_passes_again() -> None:
    """Small passes take longer a token, so it might seem slow because they are small."""
    known, least = paces(1000, 1000), 100.0
    for slowness in [8.0] * 60 + [1.0] * 300:
        tokens = known.budget(1)
        known.learn(round(tokens), slowness * (0.05 + 0.0005 * tokens), 1)
        known.learn(100, 0.1, 0)
        least = min(least, known.budget(1))
    assert least < 40
    assert known.budget(1) == 100


def test_nothing_is_known_of_lanes_that_computed_nothing() -> None:
    known = paces(None, None)
    assert (known.seconds(10), known.tokens(1.0, 0), known.pass_seconds) == (0.0, None, 0.0)
    assert [known.budget(lane) for lane in range(2)] == [100, 100]
    assert known.rate(0) == known.rate(1)
    half = paces(1000, None)
    assert half.rate(1) == half.rate(0) == pytest.approx(1000)
    assert half.budget(1) == 100
