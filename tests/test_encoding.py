"""Texts are tokenized in slices, which nobody sees, and no slice for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reranker_serve.backends.fake import FakeBackend, FakeFamily
from reranker_serve.encoding import Encoding, Query
from reranker_serve.service import Reranker
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import WHOLE, Cut, Encoded, Family, ModelInfo, RerankRequest, Scorer
from tests.families.test_cut import FAMILIES

QUERY = "how do plants make food"
# 16 of them are more than a slice, by what is read of each.
DOCUMENTS = tuple(f"document {number} " + "how plants make food from the sun " * 200 for number in range(100))


class Slow(FakeFamily):
    """Takes its time for every call of `encode`, which `calls` counts; the first one begins with `begun`."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.calls = 0
        self.begun = threading.Event()
        self._seconds = seconds

    def encode(self, query: str, documents: Sequence[str], **options: Any) -> Encoded:
        if query:  # there is none when the least tokens of a document are counted
            self.calls += 1
            self.begun.set()
            time.sleep(self._seconds)
        return super().encode(query, documents, **options)


@contextlib.contextmanager
def encoding(family: Family) -> Any:
    made = Encoding(family, 2_000_000, Tracing())
    try:
        yield made
    finally:
        made.close()


def facts(encoded: Encoded) -> tuple[object, ...]:
    """All that there is to compare, the identity of prefixes too."""
    prefixes: dict[int, int] = {}
    items = [
        (item.ids.tolist(), item.second_segment, prefixes.setdefault(id(item.prefix), len(prefixes)))
        for item in encoded.items
    ]
    return items, encoded.truncated, encoded.query_truncated, encoded.chunks


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("cut", [WHOLE, Cut(chunks=3)])
@pytest.mark.parametrize("query", [QUERY, QUERY * 100], ids=["whole", "halved"])
async def test_slices_come_together_as_if_encoded_at_once(
    build: Callable[[Path], Family], cut: Cut, query: str, tmp_path: Path
) -> None:
    family = build(tmp_path)
    length = min(512, family.max_length_bounds[1])
    documents = ("the sun", *DOCUMENTS, "the moon")
    asked = [(Query(query, documents, length, cut=cut), documents), (Query("sun", ("sun",), length), ("sun",))]
    with encoding(family) as encoder:
        done = await encoder.encode(asked)
    for (question, texts), part in zip(asked, done, strict=True):
        whole = family.encode(question.text, texts, max_length=length, instruction=None, cut=question.cut)
        assert facts(part) == facts(whole)


async def test_what_nobody_waits_for_any_more_stops_after_its_slice() -> None:
    family = Slow(0.1)
    with encoding(family) as encoder:
        running = asyncio.create_task(encoder.encode([(Query(QUERY, DOCUMENTS, 512), DOCUMENTS)]))
        await asyncio.to_thread(family.begun.wait, 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # The thread is free again as soon as the slice is done.
        await asyncio.gather(*(encoder.tokens([QUERY], special=False) for _ in range(4)))
        await asyncio.sleep(0.3)
        assert family.calls == 1


async def test_until_some_time_gives_the_first_documents_of_the_first_queries() -> None:
    family = Slow(0.05)
    asked = [(Query("sun", ("sun",), 512), ("sun",)), (Query(QUERY, DOCUMENTS, 512), DOCUMENTS)]
    with encoding(family) as encoder:
        at_once = await encoder.encode(asked, until=-math.inf)
        assert [len(part.truncated) for part in at_once] == [1]
        first, second = await encoder.encode(asked, until=time.monotonic() + 0.2)
        assert len(first.truncated) == 1
        assert 0 < len(second.truncated) < len(DOCUMENTS)


async def test_a_deadline_has_scores_though_the_texts_take_longer_than_that_to_tokenize() -> None:
    family = Slow(0.1)
    scorer = Scorer(ModelInfo("fake", "none", "none"), family, (FakeBackend(),))
    reranker = Reranker(scorer, Settings(cache_entries=0), Metrics())
    try:
        result = await reranker.rerank(RerankRequest(QUERY, DOCUMENTS, deadline=0.5))
        assert family.calls < 7
        assert 16 <= result.scored < len(DOCUMENTS)
        scored = sorted(document.index for document in result.ranking if document.score is not None)
        assert scored == list(range(result.scored))
    finally:
        await asyncio.to_thread(reranker.close, 5)
