"""Every field that is taken changes the result, in each dialect; none is parsed and dropped."""

from __future__ import annotations

from typing import Any

import pytest

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.backends.fake import FakeBackend
from tests.api.test_dialects import WORDS, body_in
from tests.conftest import Connect, Gate

QUERY = "which whale is blue"
# The words that matter come late in the second document, beyond 512 of them in the third.
TEXTS = ["a red fox", "fox " * 12 + "which whale is blue", "fox " * 900 + "which whale is blue"]

# A field, its value, and what comes with it in both requests; the reply must differ.
CASES: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "inputs": [([[QUERY, TEXTS[0]]], {})],
    "max_length": [(10, {})],
    "truncate_prompt_tokens": [(10, {})],
    "max_tokens_per_doc": [(3, {})],
    "max_doc_length": [(3, {})],
    "max_tokens_per_query": [(1, {})],
    "max_query_length": [(1, {})],
    "truncation_side": [("left", {}), ("Left", {})],
    "truncation_direction": [("left", {}), ("LEFT", {})],
    "truncate": [(False, {}), ("NONE", {}), ("none", {}), ("START", {}), ("false", {})],
    "truncation": [(False, {})],
    "max_chunks_per_doc": [(4, {}), (2, {"max_length": 10})],
    "overlap_tokens": [(2, {"max_length": 10, "max_chunks_per_doc": 9})],
    "min_score": [(0.5, {}), ("0.5", {})],
    "min_probability": [(0.5, {})],
    "relevant_spans": [
        ({"mode": "enabled"}, {}),
        ({"mode": "enabled", "threshold": 0.5}, {}),
        ({"mode": "enabled", "threshold": 0.5}, {"relevant_spans": {"mode": "enabled"}}),
        ({"mode": "enabled", "max_spans": 1}, {"relevant_spans": {"mode": "enabled"}}),
    ],
    "raw_scores": [(True, {}), ("true", {})],
    "use_activation": [(False, {})],
    "activation": [(False, {})],
    "softmax": [(False, {})],
    "instruction": [("find foxes", {})],
    "instruct": [("find foxes", {})],
    "chat_template_kwargs": [({"instruction": "find foxes", "other": 1}, {})],
    "kwargs": [('{"instruction": "find foxes"}', {}), ({"instruction": "find foxes"}, {})],
    "model": [("another", {})],
    "top_n": [(1, {})],
    "top_k": [(1, {})],
    "return_documents": [(True, {"return_documents": False})],
    "return_input": [(True, {})],
    "return_text": [(True, {"return_text": False})],
    "return_texts": [(False, {})],
    "rank_fields": [(["other"], {})],
    "parameters": [({"truncate": "NONE"}, {})],
    "query": [("fox", {})],
    "queries": [("fox", {})],
    "documents": [(["whale"], {})],
    "texts": [(["whale"], {})],
    "passages": [(["whale"], {})],
    "input": [(["whale"], {})],
}
# NIM's scores are raw in any case.
SAME_ANYWAY = {("nim", "raw_scores"), ("nim", "use_activation")}
# It changes when, not what: see tests/engine/test_scheduler.py and below.
NOT_IN_THE_REPLY = {"timeout_ms", "deadline_ms", "priority"}


def fields(dialect: Dialect) -> list[str]:
    return [name for name in dialect.body.model_fields if name not in NOT_IN_THE_REPLY]


async def content_of(connect: Connect, dialect: Dialect, body: dict[str, Any]) -> Any:
    async with connect(strict_model="true") as client:
        reply = await client.post(dialect.paths[0].replace("{model:path}", "m"), json=body)
    content = reply.json()
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if name not in ("id", "created", "timings")}
    return reply.status_code, content


@pytest.mark.parametrize(
    ("dialect", "field"),
    [
        pytest.param(dialect, field, id=f"{dialect.name}-{field}")
        for dialect in DIALECTS
        for field in fields(dialect)
        if (dialect.name, field) not in SAME_ANYWAY
    ],
)
async def test_a_field_that_is_taken_changes_the_reply(dialect: Dialect, field: str, connect: Connect) -> None:
    if field == "top_n" and WORDS.get(dialect.name, ("", "", "top_n"))[2] == "top_k":
        field = "top_k"
    for value, beside in CASES[field]:
        documents: list[Any] = [{"text": text, "other": "blue"} for text in TEXTS] if field == "rank_fields" else TEXTS
        plain = {**body_in(dialect, QUERY, documents), **beside}
        assert await content_of(connect, dialect, plain) != await content_of(connect, dialect, plain | {field: value})


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_field_that_is_listed_as_ignored_changes_nothing(dialect: Dialect, connect: Connect) -> None:
    plain = body_in(dialect, QUERY, TEXTS)
    assert not set(dialect.ignored) & set(dialect.body.model_fields)
    for field in dialect.ignored:
        got = await content_of(connect, dialect, plain | {field: 1})
        assert got == await content_of(connect, dialect, plain | {field: None})


async def test_the_best_chunk_counts_and_the_reply_says_how_many(connect: Connect) -> None:
    body = {"query": QUERY, "documents": TEXTS, "max_length": 10, "return_documents": False}
    async with connect() as client:
        cut = (await client.post("/v1/rerank", json=body)).json()["results"]
        chunked = await client.post("/v1/rerank", json=body | {"max_chunks_per_doc": 9, "overlap_tokens": 0})
        left = (await client.post("/v1/rerank", json=body | {"truncation_side": "left"})).json()["results"]
    rows = {row["index"]: row for row in chunked.json()["results"]}
    assert {index: row["chunks"] for index, row in rows.items()} == {0: 1, 1: 4, 2: 9}
    assert rows[1]["relevance_score"] > next(row for row in cut if row["index"] == 1)["relevance_score"]
    assert left[0]["index"] == 1
    assert all("chunks" not in row for row in cut)


@pytest.mark.parametrize(
    ("path", "list_name", "status"),
    [("/rerank", "texts", 422), ("/rerank", "documents", 400), ("/infinity/rerank", "documents", 422)],
)
async def test_a_text_that_must_not_be_cut_is_named(path: str, list_name: str, status: int, connect: Connect) -> None:
    async with connect() as client:
        body = {"query": QUERY, list_name: TEXTS, "truncate": False}
        reply = await client.post(path, json=body)
        assert reply.status_code == status
        assert "document 2 does not fit" in reply.text
        query = await client.post(path, json={"query": "fox " * 600, list_name: ["a"], "truncate": False})
        assert "the query does not fit" in query.text
        assert (await client.post(path, json=body | {"max_chunks_per_doc": 5})).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers"),
    [({"timeout_ms": 50}, {}), ({}, {"X-Request-Timeout": "0.05"}), ({"timeout_ms": 50}, {"X-Request-Timeout": "9"})],
)
async def test_a_callers_own_deadline_is_kept_and_frees_the_queue(
    body: dict[str, int], headers: dict[str, str], connect: Connect, gate: Gate
) -> None:
    async with connect(FakeBackend(gate, batch_token_cap=8)) as client:
        request = {"query": "blue whale", "documents": [f"whale {i}" for i in range(20)], **body}
        reply = await client.post("/rerank", json=request, headers=headers)
        assert reply.status_code == 504
        assert "the request's own timeout" in reply.json()["detail"]
        assert "reranker_queue_tokens 0.0" in (await client.get("/metrics")).text
        gate.open()


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", ""])
async def test_a_deadline_that_is_no_number_of_seconds_is_named(value: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post(
            "/rerank", json={"query": "a", "documents": ["b"]}, headers={"X-Request-Timeout": value}
        )
    assert reply.status_code == 400
    assert "X-Request-Timeout" in reply.json()["detail"]


@pytest.mark.parametrize("field", ["deadline_ms", "timeout_ms", "top_n", "max_length", "priority"])
@pytest.mark.parametrize(
    ("value", "said"),
    [(True, "must be a whole number, not true or false"), (1e300, "is too large a number"), (1.5, "valid integer")],
)
async def test_a_number_that_is_none_or_too_large_is_named(
    field: str, value: object, said: str, connect: Connect
) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json={"query": "fox", "documents": ["a fox"], field: value})
    assert reply.status_code == 400
    assert f"{field} " in reply.json()["detail"]
    assert said in reply.json()["detail"]
