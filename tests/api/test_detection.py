"""Which dialect answers: by marks in the body on every rerank path, then by the path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.api.dialect import Call
from reranker_serve.api.dialects.table import DIALECTS, DialectTable
from tests.conftest import Connect

TABLE = DialectTable(DIALECTS)
DOCUMENTS: dict[str, Any] = {"query": "q", "documents": ["a"]}
TEXTS: dict[str, Any] = {"query": "q", "texts": ["a"]}
OBJECTS: dict[str, Any] = {"query": "q", "documents": [{"text": "a"}]}
PINECONE = {"X-Pinecone-Api-Version": "2026-07", "Api-Key": "k"}


def told(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> str:
    dialect = TABLE.tell(Call.of(path, list(headers or {}), body))
    assert dialect is not None
    return dialect.name


@pytest.mark.parametrize(
    ("path", "body", "headers", "expected"),
    [
        ("/rerank", OBJECTS, PINECONE, "pinecone"),
        ("/v1/rerank", DOCUMENTS, PINECONE, "pinecone"),
        ("/rerank", OBJECTS, {"X-Pinecone-API-Version": "2024-10"}, "pinecone"),
        ("/rerank", OBJECTS, {"api-key": "k"}, "native"),
        ("/pinecone/rerank", OBJECTS, {"api-key": "k"}, "pinecone"),
        ("/rerank", {"query": {"text": "q"}, "passages": [{"text": "a"}]}, {}, "nim"),
        ("/v1/rerank", {"query": "q", "passages": ["a"], "top_n": 1}, {}, "nim"),
        ("/rerank", {"query": "q", "input": ["a"]}, {}, "mixedbread"),
        ("/rerank", DOCUMENTS | {"input": None}, {}, "native"),
        ("/v1/reranking", {"query": "q", "input": ["a"]}, {}, "mixedbread"),
        ("/v1/reranking", TEXTS, {}, "hf"),
        ("/reranking", TEXTS, {}, "hf"),
        ("/v1/reranking", DOCUMENTS, {}, "cohere_v1"),
        ("/reranking", DOCUMENTS, {}, "cohere_v1"),
        ("/rerank", TEXTS, {}, "tei"),
        ("/", TEXTS, {}, "tei"),
        ("/v1/rerank", TEXTS | {"model": "m", "top_n": 1}, {}, "tei"),
        ("/v2/rerank", TEXTS, {}, "tei"),
        ("/rerank", TEXTS | {"documents": None}, {}, "tei"),
        ("/v1/rerank", DOCUMENTS | {"top_k": None}, {}, "voyage"),
        ("/rerank", DOCUMENTS | {"truncation": True}, {}, "voyage"),
        ("/v2/rerank", DOCUMENTS | {"top_k": 1}, {}, "cohere_v2"),
        ("/rerank", DOCUMENTS | {"raw_scores": False, "model": "m"}, {}, "infinity"),
        ("/rerank", DOCUMENTS | {"raw_scores": True}, {}, "native"),
        ("/rerank", DOCUMENTS | {"raw_scores": True, "model": "m", "max_length": 8}, {}, "native"),
        ("/infinity/rerank", DOCUMENTS, {}, "infinity"),
        ("/v1/rerank", DOCUMENTS | {"kwargs": "{}"}, {}, "xinference"),
        ("/v1/rerank", DOCUMENTS | {"return_len": None}, {}, "xinference"),
        ("/rerank", DOCUMENTS | {"truncate_prompt_tokens": None}, {}, "vllm"),
        ("/v1/rerank", DOCUMENTS | {"use_activation": False}, {}, "vllm"),
        ("/v1/rerank", DOCUMENTS | {"max_doc_length": 9}, {}, "jina"),
        ("/api/v1/rerank", DOCUMENTS, {}, "jina"),
        ("/v1/rerank", DOCUMENTS, {}, "cohere_v1"),
        ("/v1/rerank", {"query": "q", "docs": ["a"]}, {}, "cohere_v1"),
        ("/rerank/v1", DOCUMENTS, {}, "cohere_v1"),
        ("/v1/v1/rerank", DOCUMENTS, {}, "cohere_v1"),
        ("/v2/rerank", DOCUMENTS | {"use_activation": True, "kwargs": "{}"}, {}, "cohere_v2"),
        ("/v1/v2/rerank", DOCUMENTS, {}, "cohere_v2"),
        ("/v1/ranking", DOCUMENTS, {}, "cohere_v1"),
        ("/v1/ranking", {}, {}, "nim"),
        ("/v1/retrieval/a/b/reranking", {}, {}, "nim"),
        ("/score", TEXTS | {"top_k": 1, "passages": []}, PINECONE, "vllm_score"),
        ("/rerank", DOCUMENTS, {}, "native"),
        ("/rerank", DOCUMENTS | {"model": "any", "top_n": 2, "return_documents": True}, {}, "native"),
        ("/rerank", {}, {}, "native"),
    ],
)
def test_the_dialect_is_told(path: str, body: dict[str, Any], headers: dict[str, str], expected: str) -> None:
    assert told(path, body, headers) == expected


RERANK_PATHS = [path.replace("{model:path}", "a/b") for row in TABLE.rows if not row.alone for path in row.paths]


@pytest.mark.parametrize("path", RERANK_PATHS)
@pytest.mark.parametrize(
    ("body", "list_name"),
    [(DOCUMENTS, "results"), ({"query": "q", "passages": ["a"]}, "rankings"), ({"query": "q", "input": ["a"]}, "data")],
)
async def test_a_wrong_base_address_still_works(
    path: str, body: dict[str, Any], list_name: str, connect: Connect
) -> None:
    async with connect() as client:
        for address in (path, f"{path.rstrip('/')}/", path.replace("/", "//")):
            if address.startswith("//"):
                address = "http://test" + address
            reply = await client.post(address, json=body)
            assert reply.status_code == 200
            content = reply.json()
            rows = content.get(list_name) or content.get("data")
            assert [row["index"] for row in rows] == [0]


@pytest.mark.parametrize("path", RERANK_PATHS)
async def test_texts_give_every_client_of_tei_its_array(path: str, connect: Connect) -> None:
    async with connect() as client:
        content = (await client.post(path, json=TEXTS)).json()
    assert isinstance(content, dict if path in ("/reranking", "/v1/reranking") else list)


async def test_two_lists_are_one_too_many(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=DOCUMENTS | {"texts": ["a"]})
        assert reply.status_code == 400
        assert "documents and texts are both given" in reply.json()["detail"]
        assert (await client.post("/rerank", json=DOCUMENTS | {"texts": None})).status_code == 200


async def test_errors_before_the_body_is_read_go_by_path_and_header(connect: Connect) -> None:
    async with connect(api_key="k") as client:
        native = (await client.post("/rerank", json=DOCUMENTS)).json()
        tei = (await client.post("/tei/rerank", json=TEXTS)).json()
        pinecone = (await client.post("/rerank", json=OBJECTS, headers=PINECONE | {"Api-Key": "x"})).json()
        mixedbread = (await client.post("/v1/reranking", json={})).json()
        shared = (await client.post("/v1/rerank", json={})).json()
    assert native["error"]["code"] == 401
    assert tei["error_type"] == "Unauthorized"
    assert pinecone["error"]["code"] == "AUTHENTICATION"
    assert mixedbread["type"] == "authentication_error"
    # Voyage's client fails on an `error` that is an object, and this path is its own as well.
    assert isinstance(shared["error"], str)
    assert all(body["detail"] == "the API key is not valid" for body in (pinecone,))


NAMES = st.sampled_from(["documents", "docs", "texts", "passages", "input", "top_k", "raw_scores", "kwargs", "model"])


@given(
    path=st.sampled_from([*RERANK_PATHS, "/score", "/v1/score"]),
    body=st.dictionaries(
        NAMES | st.text(max_size=4), st.none() | st.just(["a"]) | st.just([{"text": "a"}]) | st.integers()
    ),
    version=st.sampled_from([[], ["X-Pinecone-API-Version"]]),
    keys=st.lists(st.sampled_from(["Api-Key", "X-API-Key", "Authorization"])),
)
def test_every_call_on_a_rerank_path_has_a_dialect_whatever_header_has_its_key(
    path: str, body: dict[str, Any], version: list[str], keys: list[str]
) -> None:
    dialect = TABLE.tell(Call.of(path, version + keys, json.loads(json.dumps(body))))
    assert dialect in TABLE.rows
    assert dialect is TABLE.tell(Call.of(path, version, body))
