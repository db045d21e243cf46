"""What clients send beyond the letter of an API is understood."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from reranker_serve.api.body import validate
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.backends.fake import FakeBackend
from reranker_serve.types import EncodedItem
from tests.api.test_dialects import body_in
from tests.api.test_states import queue_holds
from tests.conftest import Connect, Gate

QUERY = "blue whale"
TEXTS = ["a red fox", "the blue whale"]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


async def indexes(connect: Connect, path: str, body: dict[str, Any]) -> list[int]:
    async with connect() as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return [row["index"] for row in reply.json()["results"]]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_null_means_not_given_for_every_optional_field(dialect: Any, connect: Connect) -> None:
    plain = body_in(dialect, QUERY, TEXTS)
    nulls = {name: None for name in dialect.body.model_fields if name not in plain}
    assert dialect.to_core(validate(nulls | plain, dialect.body)) == dialect.to_core(validate(plain, dialect.body))
    async with connect() as client:
        reply = await client.post(dialect.paths[0].replace("{model:path}", "m"), json=nulls | plain)
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"top_n": 3},
        {"top_n": 10**6},
        {"top_n": "2"},
        {"return_documents": "true"},
        {"return_documents": "false"},
        {"documents": [{"text": text} for text in TEXTS]},
        {"documents": [{"content": text} for text in TEXTS]},
        {"documents": [{"content": [{"type": "text", "text": text}]} for text in TEXTS]},
        {"documents": [TEXTS[0], {"title": TEXTS[1]}], "rank_fields": ["title"]},
        {"query": {"text": QUERY}},
        {"query": {"content": QUERY}},
        {"query": {"content": [{"type": "text", "text": "blue"}, {"type": "text", "text": "whale"}]}},
        {"model": "gpt-4"},
        {"unknown": {"a": [1]}, "extra_body": None},
        {"kwargs": "{}"},
        {"kwargs": ""},
        {"truncate": True},
        {"truncate": "END"},
        {"truncation_direction": "Right"},
        {"priority": -3},
        {"max_chunks_per_doc": 1024, "overlap_tokens": 80},
        {"relevant_spans": {"mode": "disabled", "max_spans": None, "threshold": None}},
        {"relevant_spans": {}},
        {"max_tokens_per_doc": 0, "max_tokens_per_query": 0, "truncate_prompt_tokens": -1},
    ],
)
@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/api/v1/rerank"])
async def test_it_is_understood(path: str, changes: dict[str, Any], connect: Connect) -> None:
    assert await indexes(connect, path, {"query": QUERY, "documents": TEXTS, **changes}) == [1, 0]


@pytest.mark.parametrize("document", ["the blue whale", {"text": "the blue whale"}, {"content": "the blue whale"}])
async def test_one_string_or_object_is_one_document(document: object, connect: Connect) -> None:
    assert await indexes(connect, "/v1/rerank", {"query": QUERY, "documents": document}) == [0]


async def scores(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[float]:
    """The score of each document, in the request's order."""
    reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    rows = reply.json().get("results") or reply.json()["data"]
    return [row.get("relevance_score", row.get("score")) for row in sorted(rows, key=lambda row: row["index"])]


async def test_each_part_of_one_object_is_a_document_and_the_parts_of_a_listed_one_are_joined(connect: Connect) -> None:
    one = {"content": [{"type": "text", "text": text} for text in TEXTS]}
    query = {"content": [{"type": "text", "text": QUERY}]}
    async with connect() as client:
        plain = await scores(client, "/rerank", {"query": QUERY, "documents": TEXTS})
        joined = await scores(client, "/rerank", {"query": QUERY, "documents": ["\n".join(TEXTS)]})
        assert plain != joined
        for path in ("/rerank", "/v1/rerank"):
            assert await scores(client, path, {"query": query, "documents": one}) == plain
            assert await scores(client, path, {"query": query, "documents": [one]}) == joined
        for first, second in (("queries", "documents"), ("data_1", "data_2"), ("text_1", "text_2")):
            assert await scores(client, "/score", {first: query, second: one}) == plain
            assert await scores(client, "/score", {first: query, second: [one]}) == joined
            pairs = await scores(client, "/score", {first: TEXTS, second: TEXTS})
            assert await scores(client, "/score", {first: one, second: one}) == pairs
        echoed = await client.post("/rerank", json={"query": QUERY, "documents": one})
    assert [row["document"] for row in echoed.json()["results"]] == [{"text": TEXTS[1]}, {"text": TEXTS[0]}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"documents": [{"image": "https://example.com/a.png"}]}, "document 0 has no text"),
        (
            {"documents": [{"content": [{"type": "image_url", "image_url": {}}]}]},
            "document 0 holds image_url",
        ),
        (
            {"documents": ["a", {"content": [{"type": "text", "text": "a"}, IMAGE]}]},
            "document 1 holds image_url",
        ),
        (
            {"documents": {"content": [{"type": "text", "text": "a"}, IMAGE]}},
            "document 1 holds image_url",
        ),
        ({"documents": {"content": [IMAGE | {"type": "video_url"}]}}, "document 0 holds video_url"),
        ({"documents": {"content": [5]}}, "document 0 has no text"),
        ({"documents": {"content": []}}, "documents must not be empty"),
        ({"documents": {"title": "a"}}, "document 0 has no text"),
        ({"query": {"content": [IMAGE]}}, "query holds image_url"),
        ({"query": {"image": "x"}}, "query"),
        ({"kwargs": "{"}, "kwargs"),
        ({"kwargs": "[1]"}, "kwargs"),
        ({"truncate": "MIDDLE"}, "truncate"),
        ({"truncation_side": "top"}, "truncation_side"),
        ({"max_chunks_per_doc": 0}, "max_chunks_per_doc"),
        ({"relevant_spans": True}, "relevant_spans"),
        ({"relevant_spans": {"mode": "maybe"}}, "relevant_spans.mode"),
        ({"relevant_spans": {"threshold": True}}, "relevant_spans.threshold"),
        ({"relevant_spans": {"max_spans": 0}}, "relevant_spans.max_spans"),
        ({"priority": "soon"}, "priority"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"top_n": -1}, "top_n"),
    ],
)
async def test_what_cannot_be_understood_is_named(changes: dict[str, Any], said: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, **changes})
    assert reply.status_code == 400
    assert said in reply.json()["detail"]


async def test_of_what_waits_the_lower_priority_is_computed_first(connect: Connect, gate: Gate) -> None:
    computed: list[int] = []

    def note(items: Sequence[EncodedItem]) -> None:
        gate(items)
        computed.extend(len(item) for item in items)

    async def ask(client: httpx.AsyncClient, words: int, priority: int | None) -> None:
        body = {"query": "a", "documents": ["b " * words], "priority": priority}
        assert (await client.post("/v2/rerank", json=body)).status_code == 200

    async with connect(FakeBackend(note, batch_token_cap=8)) as client:
        tasks = [asyncio.create_task(ask(client, 2, None))]
        await gate.entered()
        waiting = 0
        for words, priority in ((8, 7), (9, None), (10, -7)):
            tasks.append(asyncio.create_task(ask(client, words, priority)))
            waiting += words + 2
            await queue_holds(waiting, client)
        gate.open()
        await asyncio.gather(*tasks)
    assert computed == [4, 12, 11, 10]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_score_that_is_no_number_never_leaves(dialect: Any, connect: Connect) -> None:
    class NotANumber(FakeBackend):
        def forward(self, items: Sequence[EncodedItem]) -> Any:
            return super().forward(items) * float("nan")

    async with connect(NotANumber()) as client:
        reply = await client.post(dialect.paths[0].replace("{model:path}", "m"), json=body_in(dialect, QUERY, TEXTS))
    assert reply.status_code == (424 if dialect.statuses == "tei" else 500)
    assert "no finite score for document 0" in reply.text
    assert "NaN" not in reply.text


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_overload_is_429_with_whole_seconds_in_every_dialect(dialect: Any, connect: Connect, gate: Gate) -> None:
    async with connect(FakeBackend(gate, batch_token_cap=8), max_queue_tokens="28") as client:
        first = asyncio.create_task(client.post("/rerank", json={"query": "a", "documents": ["b " * 6]}))
        await gate.entered()
        second = asyncio.create_task(client.post("/rerank", json={"query": "a", "documents": ["b " * 16]}))
        await queue_holds(18, client)
        path = dialect.paths[0].replace("{model:path}", "m")
        refused = await client.post(path, json=body_in(dialect, QUERY, TEXTS))
        gate.open()
        await asyncio.gather(first, second)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"].isdecimal()
    assert "overloaded" in refused.json()["detail"]
