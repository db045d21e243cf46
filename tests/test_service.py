from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from reranker_serve.backends.fake import FakeBackend, FakeFamily, fake_scorer
from reranker_serve.calibration import Platt
from reranker_serve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    RequestTooLarge,
    SettingsError,
    UnknownModel,
)
from reranker_serve.service import Reranker
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.types import WHOLE, Cut, Encoded, EncodedItem, FloatArray, RerankRequest, ScoreRequest
from tests.calibrations import calibration
from tests.conftest import Gate, fake_settings

QUERY = "blue whale"
DOCUMENTS = ("a red fox", "the blue whale", "blue sky", "the blue whale", "a red fox")


@asynccontextmanager
async def serving(backend: FakeBackend | None = None, **values: str) -> AsyncIterator[Reranker]:
    reranker = Reranker(fake_scorer(backend), fake_settings(**values), Metrics())
    try:
        yield reranker
    finally:
        await asyncio.to_thread(reranker.close)


def ask(**changes: object) -> RerankRequest:
    values: dict[str, object] = {"query": QUERY, "documents": DOCUMENTS} | changes
    return RerankRequest(**values)  # type: ignore[arg-type]


async def test_best_first_and_ties_by_index() -> None:
    async with serving() as reranker:
        result = await reranker.rerank(ask())
    assert [ranked.index for ranked in result.ranking] == [1, 3, 2, 0, 4]
    scores = [ranked.score for ranked in result.ranking]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


async def test_equal_documents_are_computed_once_and_counted_once() -> None:
    backend = FakeBackend()
    async with serving(backend, cache_entries="0") as reranker:
        result = await reranker.rerank(ask())
        distinct = await reranker.rerank(ask(documents=tuple(dict.fromkeys(DOCUMENTS))))
    assert backend.computed == 3 + 3
    assert len(result.ranking) == 5
    assert result.usage == distinct.usage


async def test_many_ties_keep_the_order_of_the_request() -> None:
    async with serving() as reranker:
        result = await reranker.rerank(ask(documents=tuple(f"whale {i}" if i % 3 else f"fox {i}" for i in range(300))))
    expected = [i for i in range(300) if i % 3] + [i for i in range(300) if not i % 3]
    assert [ranked.index for ranked in result.ranking] == expected


async def test_top_n_keeps_the_best() -> None:
    async with serving() as reranker:
        result = await reranker.rerank(ask(top_n=2))
    assert [ranked.index for ranked in result.ranking] == [1, 3]


class InUnits(FakeFamily):
    """Counts two shared words as one, as late interaction counts by the query's tokens."""

    def encode(self, *texts: Any, **options: Any) -> Encoded:
        return dataclasses.replace(super().encode(*texts, **options), unit=2.0)


async def test_a_probability_is_of_the_score_in_its_unit() -> None:
    curve = Platt(slope=1.0, intercept=0.0)
    scorer = dataclasses.replace(fake_scorer(), family=InUnits())
    reranker = Reranker(scorer, fake_settings(), Metrics(), calibration=calibration(curve))
    try:
        best = (await reranker.rerank(ask(raw_scores=True))).ranking[0]
    finally:
        await asyncio.to_thread(reranker.close)
    assert (best.score, best.unit) == (1.0, 2.0)
    assert best.probability == pytest.approx(1 / (1 + np.exp(-0.5)))


class Instructed(FakeFamily):
    takes_instruction = True


async def test_probabilities_are_known_for_the_instruction_they_were_calibrated_with_only() -> None:
    scorer = dataclasses.replace(fake_scorer(), family=Instructed())
    settings = fake_settings(instruction="find whales")
    made = calibration(instruction="find whales")
    with pytest.raises(SettingsError, match="another instruction"):
        Reranker(scorer, settings, Metrics(), calibration=calibration())
    reranker = Reranker(scorer, settings, Metrics(), calibration=made)
    try:
        for same in (None, "find whales"):
            best = (await reranker.rerank(ask(instruction=same, min_probability=0.4))).ranking[0]
            assert best.probability == 0.5
        other = await reranker.rerank(ask(instruction="find foxes", min_probability=0.0))
        assert {ranked.probability for ranked in other.ranking} == {None}
        assert other.left_out is None
        with pytest.raises(InvalidRequest, match="another instruction"):
            await reranker.rerank(ask(instruction="find foxes", min_probability=0.4))
    finally:
        await asyncio.to_thread(reranker.close)


async def test_raw_scores_are_the_models_own_and_rank_the_same() -> None:
    async with serving() as reranker:
        raw = await reranker.rerank(ask(raw_scores=True))
        usual = await reranker.rerank(ask())
    assert [ranked.score for ranked in raw.ranking] == [1.0, 1.0, 0.0, -1.0, -1.0]
    assert [ranked.index for ranked in raw.ranking] == [ranked.index for ranked in usual.ranking]


async def test_truncation_is_told_where_the_document_is() -> None:
    async with serving() as reranker:
        result = await reranker.rerank(ask(documents=("blue", "blue " * 600, "whale")))
    assert {ranked.index: ranked.truncated for ranked in result.ranking} == {0: False, 1: True, 2: False}


async def test_times_add_up() -> None:
    async with serving() as reranker:
        timings = (await reranker.rerank(ask())).timings
    parts = timings.tokenize_ms + timings.queue_ms + timings.inference_ms
    assert 0 < parts <= timings.total_ms


class NotANumber(FakeBackend):
    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        rows = super().forward(items)
        rows[rows > 0] = np.nan
        return rows


async def test_a_score_that_is_no_number_names_its_document() -> None:
    async with serving(NotANumber()) as reranker:
        with pytest.raises(InferenceFailed, match="document 1"):
            await reranker.rerank(ask())
        assert len((await reranker.rerank(ask(documents=("a", "b")))).ranking) == 2


async def test_a_request_over_its_time_is_given_up_and_its_rest_is_not_computed(gate: Gate) -> None:
    backend = FakeBackend(gate, batch_token_cap=8)
    async with serving(backend, request_timeout="0.1") as reranker:
        with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
            await reranker.rerank(ask(documents=tuple(f"document {i}" for i in range(100))))
        await asyncio.sleep(0.05)
        assert reranker.engine.queued_tokens == 0
        gate.open()
    assert backend.computed <= 2


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"query": "  "}, InvalidRequest, "query must not be empty"),
        ({"documents": ()}, InvalidRequest, "documents must not be empty"),
        ({"documents": ("a",) * 6}, InvalidRequest, "6 documents, at most 5"),
        ({"instruction": "be brief"}, InvalidRequest, "takes no instruction"),
        ({"max_length": 3}, InvalidRequest, "from 4 to 512"),
        ({"max_length": 513}, InvalidRequest, "from 4 to 512"),
        ({"model": "other"}, UnknownModel, "'other'"),
    ],
)
async def test_what_is_refused_is_refused_before_any_work(
    changes: dict[str, object], error: type[Exception], said: str
) -> None:
    backend = FakeBackend()
    async with serving(backend, max_documents="5", strict_model="true") as reranker:
        with pytest.raises(error, match=said):
            await reranker.rerank(ask(**changes))
    assert backend.computed == 0


@pytest.mark.parametrize(
    ("cap", "batch_size", "max_length", "budget"),
    [(None, "32", "512", 16384), (4096, "32", "512", 4096), (4096, "2", "64", 128)],
)
async def test_the_token_budget_is_what_is_configured_up_to_the_devices_cap(
    cap: int | None, batch_size: str, max_length: str, budget: int
) -> None:
    async with serving(FakeBackend(batch_token_cap=cap), batch_size=batch_size, max_length=max_length) as reranker:
        assert reranker.token_budget == budget


class CountingFamily(FakeFamily):
    """Remembers how many documents each call of `encode` had."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def encode(self, query: str, documents: Sequence[str], **options: Any) -> Encoded:
        self.calls.append(len(documents))
        return super().encode(query, documents, **options)


async def test_what_cannot_be_admitted_is_refused_before_it_is_tokenized(gate: Gate) -> None:
    family = CountingFamily()
    scorer = dataclasses.replace(fake_scorer(FakeBackend(gate, batch_token_cap=4)), family=family)
    reranker = Reranker(scorer, fake_settings(max_queue_tokens="100", cache_entries="0"), Metrics())
    try:
        first = asyncio.create_task(reranker.rerank(ask(documents=("whale",))))
        await gate.entered()
        second = asyncio.create_task(reranker.rerank(ask(documents=tuple(f"whale {i}" for i in range(19)))))
        for _ in range(500):
            if reranker.engine.queued_tokens == 95:
                break
            await asyncio.sleep(0.01)
        family.calls.clear()
        with pytest.raises(Overloaded, match="99 of 100 queue tokens are taken") as refused:
            await reranker.rerank(ask(documents=tuple(f"fox {i}" for i in range(2))))
        assert (family.calls, refused.value.retry_after) == ([], 1)
        with pytest.raises(Overloaded):  # it might have been short enough
            await reranker.rerank(ask(documents=("fox",)))
        assert family.calls == [1]
        gate.open()
        assert len((await first).ranking) + len((await second).ranking) == 20
    finally:
        gate.open()
        await asyncio.to_thread(reranker.close)


def pairs(count: int) -> ScoreRequest:
    """As many queries, of one document each."""
    requests = tuple(ask(query=f"whale {number}", documents=(f"blue {number}",)) for number in range(count))
    return ScoreRequest(requests, tuple((number,) for number in range(count)))


async def test_pairs_of_many_queries_are_one_job(gate: Gate) -> None:
    family = CountingFamily()
    scorer = dataclasses.replace(fake_scorer(FakeBackend(gate, batch_token_cap=50)), family=family)
    reranker = Reranker(scorer, fake_settings(cache_entries="0"), Metrics())
    try:
        first = asyncio.create_task(reranker.rerank(ask()))
        await gate.entered()
        many = asyncio.create_task(reranker.score(pairs(3000)))
        while not reranker.engine.queued_tokens:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        few = asyncio.create_task(reranker.rerank(ask(documents=tuple(f"whale {i}" for i in range(10)))))
        while len(family.calls) < 3002:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        gate.open()
        await few
        assert not many.done()
        result = await many
        await first
    finally:
        gate.open()
        await asyncio.to_thread(reranker.close)
    assert [ranked.index for ranked in result.ranking] == list(range(3000))
    # Each has its number in common with its document, and nothing else.
    assert {ranked.score for ranked in result.ranking} == {0.5}
    assert result.usage.prompt_tokens == 3000 * 5


async def test_pairs_that_can_never_fit_the_queue_together_are_too_large_for_good() -> None:
    async with serving(max_queue_tokens="1000", cache_entries="0") as reranker:
        with pytest.raises(RequestTooLarge):
            await reranker.score(pairs(300))
        assert len((await reranker.score(pairs(200))).ranking) == 200


async def test_pairs_are_given_up_as_one(gate: Gate) -> None:
    backend = FakeBackend(gate, batch_token_cap=50)
    async with serving(backend, cache_entries="0") as reranker:
        task = asyncio.create_task(reranker.score(pairs(300)))
        await gate.entered()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert reranker.engine.queued_tokens == 0
        gate.open()
        await reranker.rerank(ask())
    assert backend.computed <= 10 + 5


async def test_pairs_are_known_the_next_time() -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        first = await reranker.score(pairs(20))
        again = await reranker.score(pairs(25))
    assert backend.computed == 25
    assert again.ranking[:20] == first.ranking


async def test_what_cannot_be_met_is_refused_before_it_is_tokenized() -> None:
    """By the speed of the warm-up pass, and the tokens that so many characters may make."""
    family = CountingFamily()
    scorer = dataclasses.replace(fake_scorer(), family=family, warm_ups=((1000, 10.0),))
    reranker = Reranker(scorer, fake_settings(), Metrics())
    try:
        family.calls.clear()
        with pytest.raises(DeadlineExceeded, match="send fewer documents"):
            await reranker.rerank(ask(documents=tuple(f"whale {i} " * 100 for i in range(100)), timeout=0.5))
        assert family.calls == []
        await reranker.rerank(ask(timeout=0.5))
    finally:
        await asyncio.to_thread(reranker.close)


async def test_a_document_of_endless_chunks_is_cut_into_no_more_than_the_queue_holds() -> None:
    cuts: list[int] = []

    class Noting(FakeFamily):
        def encode(self, *arguments: Any, **options: Any) -> Encoded:
            cuts.append(options.get("cut", WHOLE).chunks)
            return super().encode(*arguments, **options)

    scorer = dataclasses.replace(fake_scorer(), family=Noting())
    reranker = Reranker(scorer, fake_settings(max_queue_tokens="5120"), Metrics())
    try:
        endless = ask(documents=("whale " * 100_000,), cut=Cut(chunks=1_000_000))
        with pytest.raises(RequestTooLarge):
            await reranker.rerank(endless)
        assert max(cuts) == 64
        few = ask(documents=("whale " * 3000, "fox"), cut=Cut(chunks=1_000_000))
        assert [ranked.chunks for ranked in (await reranker.rerank(few)).ranking] == [6, 1]
    finally:
        await asyncio.to_thread(reranker.close)
