from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.cache import Key, PairScore, ScoreCache, pair_keys
from reranker_serve.errors import InferenceFailed, NotReady, TooLong
from reranker_serve.service import Reranker
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.types import Cut, EncodedItem, FloatArray, RankedDocument, RerankRequest, Usage
from tests.conftest import Gate, fake_settings

DOCUMENTS = ("the blue whale", "a red fox", "blue sky")


@asynccontextmanager
async def serving(backend: FakeBackend, **values: str) -> AsyncIterator[Reranker]:
    reranker = Reranker(fake_scorer(backend), fake_settings(**values), Metrics())
    try:
        yield reranker
    finally:
        await asyncio.to_thread(reranker.close)


def ask(*documents: str, **changes: object) -> RerankRequest:
    values: dict[str, object] = {"query": "blue whale", "documents": documents or DOCUMENTS} | changes
    return RerankRequest(**values)  # type: ignore[arg-type]


def answer(ranking: Sequence[RankedDocument], usage: Usage) -> tuple[list[tuple[object, ...]], int]:
    return [(row.index, row.score, row.truncated, row.chunks) for row in ranking], usage.prompt_tokens


async def settle() -> None:
    """Until every task has come as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0.005)


# --- what is asked again ---


@pytest.mark.parametrize("request_", [ask(), ask("blue " * 600, "fox"), ask("blue " * 900, cut=Cut(chunks=4))])
async def test_what_was_computed_once_gives_the_same_answer_again(request_: RerankRequest) -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        first = await reranker.rerank(request_)
        computed = backend.computed
        again = await reranker.rerank(request_)
    assert backend.computed == computed > 0
    assert answer(again.ranking, again.usage) == answer(first.ranking, first.usage)
    assert again.timings.inference_ms == again.timings.tokenize_ms == 0 < again.timings.total_ms


async def test_only_what_is_new_is_computed_and_usage_is_that_of_the_whole() -> None:
    backend, alone = FakeBackend(), FakeBackend()
    async with serving(backend) as reranker, serving(alone, cache_entries="0") as uncached:
        await reranker.rerank(ask("blue sky"))
        mixed = await reranker.rerank(ask())
        expected = await uncached.rerank(ask())
    assert (backend.computed, alone.computed) == (1 + 2, 3)
    assert answer(mixed.ranking, mixed.usage) == answer(expected.ranking, expected.usage)


async def test_zero_entries_compute_every_pair() -> None:
    backend = FakeBackend()
    async with serving(backend, cache_entries="0") as reranker:
        await reranker.rerank(ask())
        await reranker.rerank(ask())
    assert backend.computed == 6


@pytest.mark.parametrize(
    "changes", [{"query": "blue"}, {"max_length": 100}, {"cut": Cut(side="left")}, {"cut": Cut(document_tokens=9)}]
)
async def test_whatever_changes_a_score_is_another_pair(changes: dict[str, object]) -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        await reranker.rerank(ask())
        await reranker.rerank(ask(**changes))
    assert backend.computed == 6


@pytest.mark.parametrize("changes", [{"top_n": 1}, {"raw_scores": True}, {"priority": 3}, {"model": "any"}])
async def test_what_does_not_change_a_score_is_the_same_pair(changes: dict[str, object]) -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        await reranker.rerank(ask())
        await reranker.rerank(ask(**changes))
    assert backend.computed == 3


async def test_a_text_too_long_is_refused_though_its_cut_score_is_known() -> None:
    async with serving(FakeBackend()) as reranker:
        await reranker.rerank(ask("fox", "blue " * 600))
        with pytest.raises(TooLong, match="document 1"):
            await reranker.rerank(ask("fox", "blue " * 600, truncate=False))


async def test_a_cut_query_is_told_every_time() -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        for _ in range(2):
            result = await reranker.rerank(ask(query="blue " * 600))
            assert result.query_truncated
    assert backend.computed == 6


async def test_the_least_recently_asked_goes_first() -> None:
    backend = FakeBackend()
    async with serving(backend, cache_entries="2") as reranker:
        for name in ("a", "b", "a", "c", "a", "b"):
            await reranker.rerank(ask(name))
    assert backend.computed == len(["a", "b", "c", "b"])


# --- what is asked while it is computed ---


async def test_equal_pairs_in_flight_are_computed_once(gate: Gate) -> None:
    backend = FakeBackend(gate)
    async with serving(backend) as reranker:
        tasks = [asyncio.create_task(reranker.rerank(ask())) for _ in range(5)]
        await gate.entered()
        await settle()
        gate.open()
        results = await asyncio.gather(*tasks)
    assert backend.computed == 3
    assert len({str(answer(result.ranking, result.usage)) for result in results}) == 1


async def test_requests_that_wait_for_each_other_both_end(gate: Gate) -> None:
    backend = FakeBackend(gate)
    async with serving(backend) as reranker:
        one = asyncio.create_task(reranker.rerank(ask("a", "b")))
        await gate.entered()
        other = asyncio.create_task(reranker.rerank(ask("b", "c")))
        third = asyncio.create_task(reranker.rerank(ask("c", "a")))
        await settle()
        gate.open()
        await asyncio.gather(one, other, third)
    assert backend.computed == 3


async def test_when_the_first_is_cancelled_one_of_the_others_computes(gate: Gate) -> None:
    backend = FakeBackend(gate, batch_token_cap=1)
    async with serving(backend) as reranker:
        first, *others = [asyncio.create_task(reranker.rerank(ask())) for _ in range(4)]
        await gate.entered()
        await settle()
        first.cancel()
        await settle()
        assert not any(task.done() for task in others)
        gate.open()
        await asyncio.gather(*others)
    # One item had reached the model before the cancellation.
    assert backend.computed == 1 + 3
    assert first.cancelled()


async def test_when_one_that_waits_is_cancelled_the_first_goes_on(gate: Gate) -> None:
    backend = FakeBackend(gate)
    async with serving(backend) as reranker:
        first = asyncio.create_task(reranker.rerank(ask()))
        await gate.entered()
        waiting = asyncio.create_task(reranker.rerank(ask()))
        await settle()
        waiting.cancel()
        await settle()
        assert waiting.cancelled()
        gate.open()
        assert len((await first).ranking) == 3
    assert backend.computed == 3


class FailsOnce(FakeBackend):
    """The first item it sees fails; `answer` is None to raise, else the number it gives."""

    def __init__(self, gate: Gate, number: float | None) -> None:
        super().__init__(gate, batch_token_cap=1)
        self.number = number
        self.calls = 0

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        rows = super().forward(items)
        self.calls += 1
        if self.calls > 1:
            return rows
        if self.number is None:
            raise ValueError("poisoned")
        return np.full_like(rows, self.number)


@pytest.mark.parametrize("number", [None, float("nan"), float("inf")])
async def test_when_the_first_fails_who_waited_computes_and_no_failure_is_kept(gate: Gate, number: float) -> None:
    async with serving(FailsOnce(gate, number)) as reranker:
        first = asyncio.create_task(reranker.rerank(ask("blue")))
        await gate.entered()
        second = asyncio.create_task(reranker.rerank(ask("blue")))
        await settle()
        gate.open()
        with pytest.raises(InferenceFailed):
            await first
        assert (await second).ranking[0].score == pytest.approx(0.5)
        assert (await reranker.rerank(ask("blue"))).ranking[0].score == pytest.approx(0.5)


async def test_a_small_request_does_not_wait_for_a_large_one_it_shares_a_pair_with(gate: Gate) -> None:
    async with serving(FakeBackend(gate, batch_token_cap=1)) as reranker:
        large = asyncio.create_task(reranker.rerank(ask(*(f"document {i}" for i in range(50)))))
        await gate.entered()
        small = asyncio.create_task(reranker.rerank(ask("document 7")))
        await settle()
        before = reranker.engine.queued_tokens
        small.cancel()
        await settle()
        assert reranker.engine.queued_tokens < before, "it had not submitted its pair"
        gate.open()
        await large


async def test_an_urgent_request_does_not_wait_for_one_that_is_less_so(gate: Gate) -> None:
    backend = FakeBackend(gate)
    async with serving(backend) as reranker:
        first = asyncio.create_task(reranker.rerank(ask(priority=5)))
        await gate.entered()
        urgent = asyncio.create_task(reranker.rerank(ask(priority=0)))
        late = asyncio.create_task(reranker.rerank(ask(priority=5)))
        await settle()
        gate.open()
        await asyncio.gather(first, urgent, late)
    assert backend.computed == 6


@pytest.mark.parametrize("first", [{"timeout": 60}, {"deadline": 60}], ids=["due later", "never due"])
async def test_who_has_little_time_does_not_wait_for_one_that_has_more(gate: Gate, first: dict[str, float]) -> None:
    """The other's pairs are computed when they are due for the other: to wait for them is to be late."""
    backend = FakeBackend(gate)
    async with serving(backend) as reranker:
        patient = asyncio.create_task(reranker.rerank(ask(**first)))
        await gate.entered()
        hurried = asyncio.create_task(reranker.rerank(ask(timeout=30)))
        also = asyncio.create_task(reranker.rerank(ask(timeout=40)))
        await settle()
        gate.open()
        await asyncio.gather(patient, hurried, also)
    assert backend.computed == 6  # the third waits for the second


async def test_a_closed_server_answers_no_known_pair_either() -> None:
    async with serving(FakeBackend()) as reranker:
        await reranker.rerank(ask())
        await asyncio.to_thread(reranker.engine.close)
        with pytest.raises(NotReady):
            await reranker.rerank(ask())


# --- keys and memory ---

Parts = st.lists(st.text(max_size=4), min_size=2, max_size=4)


@given(Parts, Parts)
def test_different_parts_never_share_a_key(one: list[str], other: list[str]) -> None:
    def key(parts: list[str]) -> Key:
        return pair_keys(parts[:-2], parts[-2], parts[-1:])[0]

    assert (key(one) == key(other)) == (one == other)


@given(st.lists(st.text(max_size=6), unique=True), st.text(max_size=6))
def test_each_document_has_its_own_key_whatever_stands_beside_it(documents: list[str], query: str) -> None:
    keys = pair_keys(("model",), query, documents)
    assert len(set(keys)) == len(documents)
    assert keys == [pair_keys(("model",), query, [document])[0] for document in documents]


def test_unpaired_surrogates_are_told_apart() -> None:
    assert len(set(pair_keys((), "q", ["\ud800", "\udfff", "\ufffd", "?"]))) == 4


async def test_an_entry_takes_the_memory_that_is_documented() -> None:
    keys = pair_keys(("model",), "query", [f"document {i}" for i in range(20_000)])

    async def compute(wanted: Sequence[Key]) -> list[PairScore]:
        return [PairScore(float(i) + 0.5, False, 1, 300 + i % 200, 1000, False) for i in range(len(wanted))]

    cache = ScoreCache(10_000)
    gc.collect()
    tracemalloc.start()
    for start in range(0, len(keys), 100):
        await cache.get([bytes(bytearray(key)) for key in keys[start : start + 100]], compute)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(cache) == 10_000
    assert used / len(cache) < 350
