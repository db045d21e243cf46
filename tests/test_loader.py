from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from reranker_serve.backends.fake import FakeBackend, FakeFamily
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
