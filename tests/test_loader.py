from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from reranker_serve.backends.fake import FakeBackend, FakeFamily
from reranker_serve.errors import OutOfMemory
from reranker_serve.loader import warm_up
from reranker_serve.types import EncodedItem, count_tokens
from tests.conftest import fake_settings


@pytest.mark.parametrize(("tokens_per_second", "full"), [(1_000_000, True), (2000, False)])
def test_the_warm_up_tells_the_speed_without_taking_long(tokens_per_second: int, full: bool) -> None:
    """A fast model computes a full batch, a slow one as much as takes a tenth of a second."""

    def compute(items: Sequence[EncodedItem]) -> None:
        time.sleep(count_tokens(items) / tokens_per_second)

    budget = fake_settings().token_budget(None)
    start = time.monotonic()
    tokens, seconds = warm_up(FakeFamily(), FakeBackend(compute), fake_settings())
    assert time.monotonic() - start < 1.0
    assert budget / 2 < tokens <= budget if full else tokens < 1000
    assert 0.4 * tokens_per_second < tokens / seconds <= tokens_per_second


def test_a_pass_that_had_to_wait_for_others_tells_nothing() -> None:
    """As the first one may, where other programs use the cores."""
    stalls = iter([0.5])
    tokens, seconds = warm_up(FakeFamily(), FakeBackend(lambda _: time.sleep(next(stalls, 0.001))), fake_settings())
    assert tokens > fake_settings().token_budget(None) / 2
    assert seconds < 0.1


def test_a_warm_up_without_memory_for_more_tells_of_what_there_was_memory_for() -> None:
    def compute(items: Sequence[EncodedItem]) -> None:
        if count_tokens(items) > 3000:
            raise OutOfMemory("no memory")

    tokens, _ = warm_up(FakeFamily(), FakeBackend(compute), fake_settings())
    assert 1000 < tokens <= 3000
