from __future__ import annotations

import pytest

from reranker_serve.engine.pace import Density, Pace


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
    ],
)
def test_what_a_thousand_tokens_take(passes: list[tuple[int, float]], seconds: float) -> None:
    assert learned(*passes).seconds(1000) == pytest.approx(seconds)


def test_what_can_be_computed_in_a_time() -> None:
    assert Pace().tokens(1.0) is None
    assert learned((1000, 2.0)).tokens(1.0) == pytest.approx(500)


def test_a_machine_that_became_slower_for_good_is_noticed() -> None:
    assert learned((1000, 1.0), *[(1000, 5.0)] * 60).seconds(1000) == pytest.approx(5.0, rel=0.05)


def test_the_density_of_texts_follows_what_was_tokenized() -> None:
    density = Density(0.3)
    density.learn(0, 0)
    density.learn(1000, 1000)
    assert density.tokens(1000) == 300
    for _ in range(5):
        density.learn(1_000_000, 800_000)
    assert density.tokens(1000) == 800
