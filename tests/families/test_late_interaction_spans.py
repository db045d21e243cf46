"""Relevant spans of late interaction models: by the vectors that the document's own score is made of."""

from __future__ import annotations

import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder
from transformers import AutoTokenizer

from reranker_serve.places import SpanOptions
from reranker_serve.service import Reranker
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.types import Cut, FloatArray, RerankRequest, RerankResult
from tests.checkpoints import load_scorer
from tests.conftest import fake_settings
from tests.families.test_late_interaction import naive
from tests.families.test_late_interaction_parity import FIXED, MARKED, QUERY, REAL, save_multi_vector, save_pylate
from tests.families.test_tokenizer import real_tokenizer

SENTENCES = ["Plants use light.", "A déjà vu, naïve!", "我爱北京。", "😀 It's 3.14 (ca.).", "How do plants make food?"]
TEXT = " ".join(SENTENCES)
ALL = SpanOptions(threshold=-1e9)


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncIterator[Reranker]:
    reranker = Reranker(load_scorer(folder), fake_settings(**settings), Metrics())
    try:
        yield reranker
    finally:
        reranker.close()


def ask(*documents: str, **changes: Any) -> RerankRequest:
    return RerankRequest(QUERY, documents, **{"spans": ALL, "raw_scores": True, **changes})


def told(result: RerankResult, *documents: str) -> list[dict[str, float]]:
    """Of each document, in their own order, the score of each span's text."""
    ranking = sorted(result.ranking, key=lambda ranked: ranked.index)
    assert all(ranked.spans is not None for ranked in ranking)
    return [
        {documents[ranked.index][span.start : span.end]: span.score for span in ranked.spans or ()}
        for ranked in ranking
    ]


def reference(folder: Path, query: str, text: str) -> dict[str, float]:
    """MaxSim of the vectors that sentence-transformers makes of the whole text, by the offsets of transformers."""
    model = MultiVectorEncoder(str(folder), device="cpu")
    left: FloatArray = model.encode_query([query], convert_to_numpy=True)[0]
    right: FloatArray = model.encode_document([text], convert_to_numpy=True)[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    skipped = set(tokenizer.convert_tokens_to_ids(list(string.punctuation))) - {tokenizer.unk_token_id}
    places = [
        stop - 1
        for index, (_, stop) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        if index not in skipped
    ]
    own = right[2:-1]  # without what stands around a text
    assert len(own) == len(places)
    found, start = {}, 0
    for sentence in SENTENCES:
        start = text.index(sentence, start)
        inside = [at for at, place in enumerate(places) if start <= place < start + len(sentence)]
        if inside:
            found[sentence] = naive(left, own[inside])
    return found


@pytest.mark.parametrize(("name", "tokenizer"), REAL)
async def test_scores_are_those_of_the_vectors_in_each_sentence(name: str, tokenizer: str, tmp_path: Path) -> None:
    folder = save_pylate(tmp_path, name, tokenizer=AutoTokenizer.from_pretrained(real_tokenizer(tokenizer)))
    expected = reference(folder, QUERY, TEXT)
    async with serving(folder) as reranker:
        (found,) = told(await reranker.rerank(ask(TEXT)), TEXT)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), [expected[text] for text in found], atol=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert np.ptp(list(expected.values())) > 1e-1, "equal scores would prove nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late")
    changes = {"num_hidden_layers": 1}
    return save_multi_vector(folder, expansion=FIXED, prompts=MARKED, document_length=40, changes=changes)


MANY = ("Plants use light. The market fell.", "Food. Water!", "How do plants make food? Light.")


async def test_nothing_is_read_for_them(folder: Path) -> None:
    async with serving(folder) as reranker:
        without = await reranker.rerank(ask(*MANY, spans=None))
        result = await reranker.rerank(ask(*MANY))
        again = await reranker.rerank(ask(*MANY))
        first = await reranker.rerank(ask(*MANY, top_n=1, spans=SpanOptions(-1e9, 1)))
    assert result.usage.span_tokens == 0
    assert result.usage.prompt_tokens == without.usage.prompt_tokens
    assert [ranked.score for ranked in result.ranking] == [ranked.score for ranked in without.ranking]
    assert [len(spans) for spans in told(result, *MANY)] == [2, 2, 2]
    assert told(again, *MANY) == told(result, *MANY)
    assert len(first.ranking) == len(first.ranking[0].spans or ()) == 1


async def test_no_sentence_scores_more_than_its_document_and_relevance_is_the_mean(folder: Path) -> None:
    async with serving(folder) as reranker:
        raw = await reranker.rerank(ask(*MANY))
        shown = await reranker.rerank(ask(*MANY, raw_scores=False))
    for ranked in raw.ranking:
        assert all(span.score <= (ranked.score or 0) + 1e-5 for span in ranked.spans or ())
    for by_text, mean in zip(told(raw, *MANY), told(shown, *MANY), strict=True):
        expected = [np.clip(by_text[text] / 32, 0, 1) for text in mean]
        np.testing.assert_allclose(list(mean.values()), expected, atol=1e-5)


LONG = " ".join(f"Plant {number} makes food." for number in range(40))


async def test_of_a_long_document_what_was_read(folder: Path) -> None:
    """Its sentences up to where it was cut; in chunks all, and one in two chunks by the vectors of both."""
    async with serving(folder) as reranker:
        cut = await reranker.rerank(ask(LONG))
        chunks = await reranker.rerank(ask(LONG, cut=Cut(chunks=20)))
    (some,), (every,) = told(cut, LONG), told(chunks, LONG)
    assert cut.usage.span_tokens == chunks.usage.span_tokens == 0
    assert 1 < len(some) < 10
    assert len(every) > 30
    assert set(some) < set(every)


@pytest.mark.parametrize(("text", "known"), [(LONG, True), (LONG * 10, False)])
async def test_where_places_are_not_known_sentences_are_read_as_documents(text: str, known: bool, folder: Path) -> None:
    async with serving(folder) as reranker:
        result = await reranker.rerank(ask(text, cut=Cut(side="left")))
    (found,) = told(result, text)
    assert result.usage.span_tokens is not None
    assert (result.usage.span_tokens == 0) == known
    assert "Plant 39 makes food." in found
    assert ("Plant 0 makes food." in found) != known


async def test_what_has_no_vector_is_no_span(folder: Path) -> None:
    text = "Plants. ?! Food."
    async with serving(folder) as reranker:
        (found, blank) = told(await reranker.rerank(ask(text, " ")), text, " ")
    assert all(any(letter.isalpha() for letter in sentence) for sentence in found)
    assert blank == {}
