"""Relevant spans: the sentences of the documents that come back, best first, through the machinery of all scores."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from reranker_serve.backends.fake import FakeBackend, FakeFamily, fake_scorer
from reranker_serve.errors import DeadlineExceeded, InferenceFailed, Overloaded, RequestTooLarge
from reranker_serve.places import SpanOptions
from reranker_serve.sentences import sentences
from reranker_serve.service import Reranker
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.types import (
    EncodedItem,
    FloatArray,
    RerankRequest,
    RerankResult,
)
from tests.conftest import Gate
from tests.test_service import ask as plain
from tests.test_service import fake_settings, serving

DOCUMENTS = (
    "The fox is red. 😀 The blue whale swims!  Blue skies, e\u0301te\u0301.",
    "Nothing here. At all.",
    "鯨。魚。 Whale! A blue whale!",
)


def ask(documents: Sequence[str] = DOCUMENTS, threshold: float | None = None, **changes: object) -> RerankRequest:
    most = changes.pop("max_spans", None)
    return plain(documents=tuple(documents), spans=SpanOptions(threshold, most), **changes)  # type: ignore[arg-type]


def told(result: RerankResult, documents: Sequence[str] = DOCUMENTS) -> dict[int, list[tuple[str, float | None]]]:
    """Of each document the spans' texts and scores."""
    return {
        ranked.index: [(documents[ranked.index][span.start : span.end], span.score) for span in ranked.spans or ()]
        for ranked in result.ranking
    }


def sigmoid(raw: float) -> float:
    return pytest.approx(1 / (1 + math.exp(-raw)))  # type: ignore[no-any-return]


async def test_sentences_are_scored_as_documents_and_come_best_first() -> None:
    async with serving() as reranker:
        result = await reranker.rerank(ask())
        sentences = tuple(text for spans in told(result).values() for text, _ in spans)
        scores = (await reranker.rerank(plain(documents=sentences))).ranking
    assert told(result)[0] == [
        ("😀 The blue whale swims!", sigmoid(1)),
        ("Blue skies, e\u0301te\u0301.", sigmoid(0)),
        ("The fox is red.", sigmoid(-1)),
    ]
    assert told(result)[2][0] == ("A blue whale!", sigmoid(1))
    by_text = {sentences[ranked.index]: ranked.score for ranked in scores}
    assert all(score == by_text[text] for spans in told(result).values() for text, score in spans)


async def test_the_threshold_is_reached_on_the_scale_of_the_scores_that_come_back() -> None:
    async with serving() as reranker:
        half = told(await reranker.rerank(ask(threshold=0.5)))
        raw = told(await reranker.rerank(ask(threshold=1, raw_scores=True)))
        usual = told(await reranker.rerank(ask(raw_scores=True)))
    assert [len(half[index]) for index in range(3)] == [2, 0, 2]
    assert raw == {0: [("😀 The blue whale swims!", 1)], 1: [], 2: [("A blue whale!", 1)]}
    # Not given, it is 0.1 of relevance on either scale.
    assert usual[1] == [("Nothing here.", -1), ("At all.", -1)]


async def test_at_most_so_many_of_the_documents_that_come_back() -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        result = await reranker.rerank(ask(top_n=1, max_spans=1))
    assert told(result) == {0: [("😀 The blue whale swims!", sigmoid(1))]}
    assert backend.computed == 3 + 3


async def test_what_is_below_a_threshold_has_no_sentence_read() -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        result = await reranker.rerank(ask(min_score=0.5))
    assert sorted(told(result)) == [0, 2]
    assert result.left_out == 1
    assert backend.computed == 3 + 3 + 4


async def test_without_the_option_there_are_none() -> None:
    async with serving() as reranker:
        result = await reranker.rerank(plain())
    assert {ranked.spans for ranked in result.ranking} == {None}
    assert result.usage.span_tokens is None


async def test_tokens_and_times_of_the_spans_are_counted() -> None:
    async with serving(cache_entries="0") as reranker:
        alone = await reranker.rerank(plain(documents=DOCUMENTS))
        result = await reranker.rerank(ask())
        sentences = tuple({text for spans in told(result).values() for text, _ in spans})
        tokens = (await reranker.rerank(plain(documents=sentences))).usage.prompt_tokens
    assert result.usage.span_tokens == tokens
    assert result.usage.prompt_tokens == alone.usage.prompt_tokens + tokens
    timings = result.timings
    assert 0 < timings.tokenize_ms + timings.queue_ms + timings.inference_ms <= timings.total_ms


async def test_what_is_known_is_not_read_again() -> None:
    backend = FakeBackend()
    async with serving(backend) as reranker:
        first = await reranker.rerank(ask())
        before = backend.computed
        again = await reranker.rerank(ask())
    assert backend.computed == before
    assert told(again) == told(first)


async def test_a_blank_document_has_no_sentence() -> None:
    async with serving() as reranker:
        result = await reranker.rerank(ask((" ", "\n")))
    assert [ranked.spans for ranked in result.ranking] == [(), ()]
    assert result.usage.span_tokens == 0


async def test_what_was_cut_off_the_document_is_looked_at_too() -> None:
    text = "Nothing at all. " * 500 + "Whale end."
    async with serving() as reranker:
        result = await reranker.rerank(ask((text,), threshold=0.5, max_length=16))
    assert result.ranking[0].truncated
    assert told(result, (text,)) == {0: [("Whale end.", sigmoid(0))]}


async def test_of_very_many_sentences_the_first_thousand_are_looked_at() -> None:
    text = "鯨。" * 2000
    async with serving() as reranker:
        result = await reranker.rerank(ask((text,), threshold=0))
    spans = result.ranking[0].spans or ()
    assert max(span.end for span in spans) == 2000
    assert len(spans) == 1000


async def test_a_long_sentence_comes_in_parts() -> None:
    text = "whale " * 300
    async with serving() as reranker:
        result = await reranker.rerank(ask((text,), max_length=64))
    found = told(result, (text,))[0]
    assert [text for text, _ in found] == [" ".join(["whale"] * 21)] * 14 + [" ".join(["whale"] * 6)]


async def test_a_text_that_must_not_be_cut_may_have_long_sentences() -> None:
    """What is asked for the document holds for the document, and not for what is made of it."""
    text = "a-b-c-d-e-f-g-h-" * 4
    async with serving() as reranker:
        result = await reranker.rerank(ask((text,), truncate=False, max_length=40))
    assert len(told(result, (text,))[0]) == 1


class ListFamily(FakeFamily):
    """Scores depend on the list."""

    listwise = True

    def __init__(self) -> None:
        super().__init__()
        self.lists: list[tuple[str, ...]] = []

    def encode(self, query: str, documents: Sequence[str], **options: object):  # type: ignore[no-untyped-def,override]
        self.lists.append(tuple(documents))
        return super().encode(query, documents, **options)  # type: ignore[arg-type]


async def test_a_listwise_model_reads_the_sentences_of_a_document_as_one_list() -> None:
    family = ListFamily()
    scorer = dataclasses.replace(fake_scorer(), family=family)
    reranker = Reranker(scorer, fake_settings(), Metrics())
    try:
        family.lists.clear()
        result = await reranker.rerank(ask(("Whale. Fox.", " ", "Blue whale. Whale. Sky.")))
    finally:
        await asyncio.to_thread(reranker.close)
    assert family.lists[1:] == [("Blue whale.", "Whale.", "Sky."), ("Whale.", "Fox.")]
    assert [len(ranked.spans or ()) for ranked in result.ranking] == [3, 2, 0]


class SecondPass:
    """A `before_forward` that lets the first pass through and holds all others."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._passes = 0

    def __call__(self, items: Sequence[EncodedItem]) -> None:
        self._passes += 1
        if self._passes > 1:
            self._gate(items)


@asynccontextmanager
async def opened(*gates: Gate) -> AsyncIterator[None]:
    """Whatever comes, the model is free in the end."""
    try:
        yield
    finally:
        for gate in gates:
            gate.open()


LONG = tuple(f"Whale {number}. " + " ".join(f"Blue {number} {part}." for part in range(30)) for number in range(20))


async def test_who_goes_away_while_spans_are_read_has_them_computed_no_further(gate: Gate) -> None:
    backend = FakeBackend(SecondPass(gate), batch_token_cap=1000)
    async with serving(backend, cache_entries="0") as reranker, opened(gate):
        task = asyncio.create_task(reranker.rerank(ask(LONG[:10])))
        await gate.entered()
        assert reranker.engine.queued_tokens > 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert reranker.engine.queued_tokens == 0
    assert backend.computed < 10 + 320


async def test_the_timeout_holds_for_both_together(gate: Gate) -> None:
    backend = FakeBackend(SecondPass(gate), batch_token_cap=1000)
    async with serving(backend, cache_entries="0") as reranker, opened(gate):
        with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
            await reranker.rerank(ask(LONG[:10], timeout=0.3))
        assert reranker.engine.queued_tokens == 0


async def test_at_the_deadline_a_document_has_its_spans_or_none(gate: Gate) -> None:
    """Nothing is made up: the ranking is there, and of the sentences what was read of a whole document."""
    passes = 0

    def third(items: Sequence[EncodedItem]) -> None:
        nonlocal passes
        passes += 1
        if passes > 2:
            gate(items)

    documents = tuple(f"whale {number}. Blue {number}. Whale {number}, blue {number}!" for number in range(8))
    async with serving(FakeBackend(third, batch_token_cap=100), cache_entries="0") as reranker, opened(gate):
        result = await reranker.rerank(ask(documents, deadline=0.5))
    spans = [ranked.spans for ranked in result.ranking]
    assert [ranked.score is not None for ranked in result.ranking] == [True] * 8
    assert all(found is None or len(found) == 3 for found in spans)
    assert spans[-1] is None
    assert spans[0] is not None


async def test_spans_that_find_no_room_are_429_and_nothing_half() -> None:
    """The documents were let in; when their sentences come, somebody else has the queue."""
    first, second, passes = Gate(), Gate(), 0

    def hold(items: Sequence[EncodedItem]) -> None:
        nonlocal passes
        passes += 1
        (first if passes == 1 else second)(items)

    async with (
        serving(FakeBackend(hold, batch_token_cap=64), max_queue_tokens="395", cache_entries="0") as reranker,
        opened(first, second),
    ):
        asked = asyncio.create_task(reranker.rerank(ask(("Whale one. Blue two. Fox three.",))))
        await first.entered()
        other = asyncio.create_task(reranker.rerank(plain(documents=tuple(f"whale {at} too" for at in range(64)))))
        while reranker.engine.queued_tokens < 384:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        first.open()
        with pytest.raises(Overloaded, match="384 of 395 queue tokens are taken; retry in"):
            await asked
        second.open()
        assert len((await other).ranking) == 64
        assert reranker.engine.queued_tokens == 0
        assert len((await reranker.rerank(ask(("Whale one. Blue two. Fox three.",)))).ranking) == 1


async def test_sentences_that_can_never_fit_say_what_helps() -> None:
    async with serving(max_queue_tokens="3000", cache_entries="0") as reranker:
        assert len((await reranker.rerank(ask(LONG[:5]))).ranking) == 5
        with pytest.raises(RequestTooLarge, match="top_n"):
            await reranker.rerank(ask(LONG))
        assert len((await reranker.rerank(ask(LONG, top_n=5))).ranking) == 5
        assert reranker.engine.queued_tokens == 0


async def test_no_more_sentences_are_looked_for_than_can_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    def counted(text: str, longest: int) -> Iterator[tuple[int, int]]:
        nonlocal looked_at
        looked_at += 1
        return sentences(text, longest)

    monkeypatch.setattr("reranker_serve.encoding.sentences", counted)
    many = tuple("a? " * 900 + str(at % 2) for at in range(500))  # of which two are ranked
    async with serving(max_queue_tokens="20000", cache_entries="0") as reranker:
        with pytest.raises(RequestTooLarge, match=r"more sentences than the queue holds: .* or for fewer .* top_n"):
            await reranker.rerank(ask(many))
    assert 0 < looked_at < 30


class NoNumber(FakeBackend):
    """No finite score for what is short."""

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        rows = super().forward(items)
        rows[[len(item) < 7 for item in items]] = np.nan
        return rows


async def test_a_sentence_without_a_finite_score_is_an_error() -> None:
    async with serving(NoNumber()) as reranker:
        assert len((await reranker.rerank(plain(documents=DOCUMENTS[:1]))).ranking) == 1
        with pytest.raises(InferenceFailed, match="sentence"):
            await reranker.rerank(ask(DOCUMENTS[:1]))
