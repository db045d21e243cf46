"""A listwise model through the whole application: a request's documents are one list, in the caller's order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from reranker_serve.app import create_app
from reranker_serve.types import Backend, EncodedItem, Outputs, Scorer
from tests.api.test_deadline import Passes
from tests.checkpoints import load_scorer, save_listwise
from tests.conftest import fake_settings
from tests.families.test_listwise_parity import texts
from tests.published_listwise import PublishedList, prompt

QUERY = "How do plants make food?"
DOCUMENTS = ["the stock market fell", "light water sugar leaf", "bread", "the stock market fell", ""]


class Gated:
    """A backend that a test lets compute."""

    batch_token_cap = 1

    def __init__(self, backend: Backend, before_forward: Passes) -> None:
        self.device, self.dtype, self.attention = backend.device, backend.dtype, backend.attention
        self._backend = backend
        self._before_forward = before_forward

    def forward(self, items: Sequence[EncodedItem]) -> Outputs:
        self._before_forward(items)
        return self._backend.forward(items)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_listwise(tmp_path_factory.mktemp("listwise"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return load_scorer(folder)


@pytest.fixture(scope="module")
def published(folder: Path) -> PublishedList:
    return PublishedList(folder)


@asynccontextmanager
async def serving(scorer: Scorer, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(fake_settings(model_name="any", **settings), scorer)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client,
    ):
        yield client


async def rows(client: httpx.AsyncClient, documents: Sequence[str], **options: Any) -> list[dict[str, Any]]:
    reply = await client.post("/rerank", json={"query": QUERY, "documents": documents, "raw_scores": True} | options)
    assert reply.status_code == 200, reply.text
    results: list[dict[str, Any]] = reply.json()["results"]
    return results


def in_order(results: list[dict[str, Any]]) -> list[Any]:
    return [row["relevance_score"] for row in sorted(results, key=lambda row: row["index"])]


async def test_a_ranking_is_the_published_one(scorer: Scorer, published: PublishedList) -> None:
    expected = published.scores(QUERY, DOCUMENTS)
    async with serving(scorer) as client:
        results = await rows(client, DOCUMENTS)
        reply = await client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS})
    np.testing.assert_allclose(in_order(results), expected, atol=1e-4, rtol=0)
    assert [row["index"] for row in results] == np.argsort(-expected).tolist()
    np.testing.assert_allclose(in_order(reply.json()["results"]), expected.clip(0, 1), atol=1e-4, rtol=0)
    assert [row["index"] for row in reply.json()["results"]] == np.argsort(-expected).tolist()


async def test_another_order_is_another_list_though_all_its_pairs_were_asked_before(
    scorer: Scorer, published: PublishedList
) -> None:
    async with serving(scorer, cache_entries="1000") as client:
        for documents in (DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[:2], DOCUMENTS):
            expected = published.scores(QUERY, documents)
            np.testing.assert_allclose(in_order(await rows(client, documents)), expected, atol=1e-4, rtol=0)


async def test_usage_counts_every_token_once(scorer: Scorer, published: PublishedList) -> None:
    tokens = len(published.tokenizer(prompt(QUERY, DOCUMENTS))["input_ids"])
    async with serving(scorer) as client:
        for _ in range(2):
            reply = await client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS})
            assert reply.json()["usage"]["prompt_tokens"] == tokens


async def test_more_text_than_a_slice_is_still_one_list(scorer: Scorer, published: PublishedList) -> None:
    documents = [f"{text} light" * 80 for text in texts(70, 9)]
    assert sum(min(len(text), 200 * 8) for text in documents) > 64 * 1024  # of which so many are read
    async with serving(scorer) as client:
        got = in_order(await rows(client, documents, max_length=200))
    np.testing.assert_allclose(got, published.scores(QUERY, documents, most=200), atol=1e-4, rtol=0)


async def test_pairs_of_a_query_are_a_list_each(scorer: Scorer, published: PublishedList) -> None:
    queries = ["bread", "light", "bread", "bread"]
    async with serving(scorer) as client:
        reply = await client.post("/score", json={"queries": queries, "documents": DOCUMENTS[:4]})
    got = [row["score"] for row in sorted(reply.json()["data"], key=lambda row: row["index"])]
    first = published.scores("bread", [DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[3]])
    second = published.scores("light", [DOCUMENTS[1]])
    np.testing.assert_allclose(got, np.clip([first[0], second[0], *first[1:]], 0, 1), atol=1e-4, rtol=0)


async def test_at_the_deadline_a_block_has_scores_or_none(scorer: Scorer, published: PublishedList) -> None:
    documents = texts(130, 4)
    passes = Passes(1)
    gated = Scorer(scorer.info, scorer.family, (Gated(scorer.backend, passes),))
    async with serving(gated) as client:
        results = await rows(client, documents, deadline_ms=4000)
        passes.let_go()
    got = in_order(results)
    done = [score is not None for score in got]
    assert done in ([True] * 125 + [False] * 5, [False] * 125 + [True] * 5)
    alone = [text for text, there in zip(documents, done, strict=True) if there]
    computed = [score for score in got if score is not None]
    np.testing.assert_allclose(computed, published.scores(QUERY, alone), atol=1e-4, rtol=0)


async def test_info_tells_that_a_score_depends_on_the_list(scorer: Scorer) -> None:
    async with serving(scorer) as client:
        info = (await client.get("/info")).json()
    assert (info["family"], info["prompt"], info["listwise"]) == ("listwise", "jina-reranker-v3", True)
    assert "depend on the other documents" in info["score_scale"]
    assert info["limits"]["max_length"] == 2048


async def test_what_would_be_lost_is_told_where_it_must_not(scorer: Scorer) -> None:
    async with serving(scorer) as client:
        body = {"query": QUERY, "documents": ["a", "bread " * 2000], "truncate": False}
        lost = await client.post("/rerank", json=body)
        query = await client.post("/rerank", json=body | {"query": QUERY * 100})
        chunks = await rows(client, body["documents"], max_chunks_per_doc=4)
    assert (lost.status_code, query.status_code) == (400, 400)
    assert "document 1 does not fit (at most 2048 tokens a document)" in lost.json()["message"]
    assert "the query does not fit, and truncation is off" in query.json()["message"]
    assert {row["index"]: (row["chunks"], row["truncated"]) for row in chunks} == {0: (1, False), 1: (1, True)}


async def test_a_list_is_not_refused_for_a_template_that_its_documents_share(scorer: Scorer) -> None:
    documents = ["a"] * 100
    async with serving(scorer, max_queue_tokens="9000") as client:
        assert len(await rows(client, documents)) == 100
