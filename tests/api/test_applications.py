"""The requests of applications that cannot be run here, with what their parsers demand of the reply."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conftest import Connect

QUERY = "which whale is blue"
TEXTS = ["A red fox runs.", "The blue whale is blue.", "which whale"]


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    reply = await client.post(path, json=body, follow_redirects=False)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank", "/api/v1/rerank"])
async def test_open_webui_gets_every_index_once(path: str, connect: Connect) -> None:
    async with connect() as client:
        content = await post(client, path, {"model": "any", "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)})
    # It restores the order of the request, and turns reranking off when `results` is missing.
    by_index = sorted(content["results"], key=lambda row: row["index"])
    assert [row["index"] for row in by_index] == [0, 1, 2]
    assert all(isinstance(row["relevance_score"], float) for row in by_index)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
@pytest.mark.parametrize("name", ["documents", "docs"])
async def test_difys_openai_compatible_plugin(path: str, name: str, connect: Connect) -> None:
    async with connect() as client:
        # Its check of the credentials: three of two documents.
        for top_n in (3, None):
            body = {"model": "any", "query": QUERY, name: TEXTS[:2], "top_n": top_n, "return_documents": True}
            results = (await post(client, path, body))["results"]
            assert [row["index"] for row in results] == [1, 0]
            # It rescales by the least and the greatest, so there must be some.
            assert max(row["relevance_score"] for row in results) > min(row["relevance_score"] for row in results)


async def test_difys_tei_plugin(connect: Connect) -> None:
    async with connect() as client:
        info = (await client.get("/info")).json()
        assert next(iter(info["model_type"])) == "reranker"
        assert info["max_input_length"] > 0
        assert info["max_client_batch_size"] > 0
        tokens = await post(client, "/tokenize", {"inputs": TEXTS})
        assert [len(text) for text in tokens] == [5, 6, 3]
        rows = await post(client, "/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    assert [(row["index"], row["text"]) for row in rows] == [(1, TEXTS[1]), (2, TEXTS[2]), (0, TEXTS[0])]
    assert all(isinstance(row["score"], float) for row in rows)


async def test_difys_jina_plugin(connect: Connect) -> None:
    async with connect() as client:
        body = {"model": "any", "query": QUERY, "documents": TEXTS, "top_n": None, "return_documents": False}
        results = (await post(client, "/v1/rerank", body))["results"]
    assert [row["index"] for row in results] == [1, 2, 0]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_ragflows_openai_compatible_and_siliconflow_providers(path: str, connect: Connect) -> None:
    async with connect() as client:
        content = await post(client, path, {"model": "any", "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)})
        silicon = await post(
            client,
            path,
            {
                "model": "any",
                "query": QUERY,
                "documents": TEXTS,
                "top_n": 3,
                "return_documents": False,
                "max_chunks_per_doc": 1024,
                "overlap_tokens": 80,
            },
        )
    # Older versions count with these; newer ones rescale everything if one score is outside 0..1.
    for reply in (content, silicon):
        assert reply["meta"]["tokens"]["input_tokens"] + reply["meta"]["tokens"]["output_tokens"] > 0
        assert sorted(row["index"] for row in reply["results"]) == [0, 1, 2]
        assert all(0 <= row["relevance_score"] <= 1 for row in reply["results"])


async def test_ragflows_xinference_provider_sends_booleans_as_strings(connect: Connect) -> None:
    async with connect() as client:
        body = {
            "model": "any",
            "query": QUERY,
            "documents": TEXTS,
            "return_documents": "true",
            "return_len": "true",
        }
        results = (await post(client, "/v1/rerank", body))["results"]
    assert sorted(row["index"] for row in results) == [0, 1, 2]
    assert all(row["document"]["text"] == TEXTS[row["index"]] for row in results)


async def test_ragflows_huggingface_provider_sends_batches_and_no_key(connect: Connect) -> None:
    async with connect() as client:
        body = {"query": QUERY, "texts": TEXTS, "raw_scores": False, "truncate": True}
        rows = await post(client, "/rerank", body)
    assert isinstance(rows, list)
    assert sorted(row["index"] for row in rows) == [0, 1, 2]


async def test_ragflows_nvidia_provider(connect: Connect) -> None:
    async with connect() as client:
        body = {
            "model": "nvidia/nv-rerankqa-mistral-4b-v3",
            "query": {"text": QUERY},
            "passages": [{"text": text} for text in TEXTS],
            "truncate": "END",
            "top_n": len(TEXTS),
        }
        for path in ("/v1/retrieval/nvidia/nv-rerankqa-mistral-4b-v3/reranking", "/v1/ranking"):
            rankings = (await post(client, path, body))["rankings"]
            assert sorted(row["index"] for row in rankings) == [0, 1, 2]
            assert all(isinstance(row["logit"], float) for row in rankings)


async def test_librechat(connect: Connect) -> None:
    async with connect() as client:
        body = {
            "model": "jina-reranker-v2-base-multilingual",
            "query": QUERY,
            "documents": TEXTS,
            "top_n": 2,
            "return_documents": True,
        }
        results = (await post(client, "/v1/rerank", body))["results"]
    assert [(row["index"], row["document"]["text"]) for row in results] == [(1, TEXTS[1]), (2, TEXTS[2])]


async def test_onyx_gets_every_index(connect: Connect) -> None:
    async with connect() as client:
        results = (await post(client, "/v1/rerank", {"model": "any", "query": QUERY, "documents": TEXTS}))["results"]
    assert sorted(row["index"] for row in results) == [0, 1, 2]


async def test_elasticsearch_sends_texts_to_any_address(connect: Connect) -> None:
    async with connect() as client:
        rows = await post(client, "/v1/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True, "top_n": 2})
    assert [row["text"] for row in rows] == [TEXTS[row["index"]] for row in rows]


async def test_haystacks_tei_ranker(connect: Connect) -> None:
    async with connect() as client:
        body = {
            "query": QUERY,
            "texts": TEXTS,
            "raw_scores": True,
            "truncate": None,
            "truncation_direction": "Right",
        }
        rows = await post(client, "/rerank", body)
        assert {row["index"]: row["score"] for row in rows} == {0: -1.0, 1: 2.0, 2: 1.0}
        wrong = await client.post("/rerank", json=body | {"texts": 5})
    assert {"error", "error_type"} <= set(wrong.json())
    assert isinstance(wrong.json()["error"], str)
