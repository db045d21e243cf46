"""`deadline_ms`: the documents that are scored by then come back, in every dialect, and never a made-up score."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.backends.fake import FakeBackend
from reranker_serve.types import EncodedItem
from tests.api.test_dialects import body_in
from tests.conftest import Connect

QUERY = "blue whale"
TEXTS = ["a red fox", "the blue whale", "a whale", "blue sky", "nothing"]


class Passes:
    """Lets the model compute so many items; the next pass goes on until it is let go."""

    def __init__(self, items: int) -> None:
        self._left = items
        self._free = threading.Event()

    def __call__(self, items: Sequence[EncodedItem]) -> None:
        self._left -= len(items)
        if self._left < 0:
            assert self._free.wait(10)

    def let_go(self) -> None:
        self._free.set()


async def post(connect: Connect, path: str, body: Any, computed: int, headers: dict[str, str] | None = None) -> Any:
    """The reply when the model computed so many documents before the deadline."""
    passes = Passes(computed)
    async with connect(FakeBackend(passes, batch_token_cap=1), cache_entries="0") as client:
        reply = await client.post(path, json=body, headers=headers)
        passes.let_go()
    return reply


def rows_of(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    names = ("results", "data", "rankings")
    rows: list[Any] = next(content[name] for name in names if name in content)
    return rows


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_what_is_scored_by_then_comes_back(dialect: Dialect, connect: Connect) -> None:
    body = body_in(dialect, QUERY, TEXTS) | {"deadline_ms": 300}
    reply = await post(connect, dialect.paths[0].replace("{model:path}", "m"), body, computed=3)
    assert reply.status_code == 200, reply.text
    assert reply.headers["X-Rerank-Scored"] == "3/5"
    content = reply.json()
    assert len(rows_of(content)) == (5 if dialect.shows_unscored else 3)
    assert "NaN" not in reply.text
    if isinstance(content, dict):
        assert content["partial"] is True


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_what_is_done_in_time_is_as_without_a_deadline(dialect: Dialect, connect: Connect) -> None:
    path, body = dialect.paths[0].replace("{model:path}", "m"), body_in(dialect, QUERY, TEXTS)
    usual = await post(connect, path, body, computed=5)
    in_time = await post(connect, path, body | {"deadline_ms": 9000}, computed=5)
    assert in_time.headers["X-Rerank-Scored"] == "5/5"
    assert "X-Rerank-Scored" not in usual.headers
    assert rows_of(in_time.json()) == rows_of(usual.json())
    assert "partial" not in in_time.text


async def test_the_native_reply_has_the_others_behind_in_their_own_order(connect: Connect) -> None:
    body = {"query": QUERY, "documents": TEXTS, "deadline_ms": 300}
    rows = (await post(connect, "/rerank", body, computed=3)).json()["results"]
    assert [row["index"] for row in rows] == [1, 2, 0, 3, 4]
    assert [row["relevance_score"] is None for row in rows] == [False] * 3 + [True] * 2
    assert [row["document"]["text"] for row in rows] == [TEXTS[row["index"]] for row in rows]
    few = (await post(connect, "/rerank", body | {"top_n": 4}, computed=3)).json()["results"]
    assert [row["index"] for row in few] == [1, 2, 0, 3]


async def test_pairs_keep_their_places(connect: Connect) -> None:
    pairs = [[query, text] for query in ("blue whale", "red fox") for text in TEXTS[:2]]
    reply = await post(connect, "/predict", {"inputs": pairs, "deadline_ms": 300}, computed=3)
    assert [row[0]["score"] is None for row in reply.json()] == [False, False, False, True]
    scores = await post(
        connect, "/score", {"queries": [p[0] for p in pairs], "documents": [p[1] for p in pairs]}, computed=9
    )
    partly = await post(
        connect,
        "/score",
        {"queries": [p[0] for p in pairs], "documents": [p[1] for p in pairs], "deadline_ms": 300},
        computed=2,
    )
    assert partly.json()["data"] == scores.json()["data"][:2]


async def test_nothing_in_time_is_an_empty_ranking(connect: Connect) -> None:
    body = {"query": QUERY, "documents": TEXTS, "deadline_ms": 100}
    reply = await post(connect, "/v2/rerank", body, computed=0)
    assert (reply.status_code, reply.json()["results"]) == (200, [])
    assert reply.headers["X-Rerank-Scored"] == "0/5"


async def test_the_header_says_it_too_and_the_shorter_one_counts(connect: Connect) -> None:
    body = {"query": QUERY, "documents": TEXTS}
    reply = await post(connect, "/v1/rerank", body, computed=2, headers={"X-Deadline-Ms": "200"})
    assert reply.headers["X-Rerank-Scored"] == "2/5"
    both = body | {"deadline_ms": 200}
    reply = await post(connect, "/v1/rerank", both, computed=2, headers={"X-Deadline-Ms": "9000"})
    assert reply.headers["X-Rerank-Scored"] == "2/5"


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", "1e400", ""])
async def test_a_deadline_that_is_no_number_of_milliseconds_is_named(value: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json={"query": "a", "documents": ["b"]}, headers={"X-Deadline-Ms": value})
    assert reply.status_code == 400
    assert "X-Deadline-Ms" in reply.json()["detail"]


async def test_a_timeout_before_the_deadline_still_means_all_or_nothing(connect: Connect) -> None:
    body = {"query": QUERY, "documents": TEXTS, "deadline_ms": 900, "timeout_ms": 100}
    assert (await post(connect, "/rerank", body, computed=2)).status_code == 504


async def test_scores_that_came_in_time_are_known_to_the_next_and_unscored_ones_are_not(connect: Connect) -> None:
    passes = Passes(2)
    backend = FakeBackend(passes, batch_token_cap=1)
    async with connect(backend) as client:
        body = {"query": QUERY, "documents": TEXTS}
        first = await client.post("/rerank", json=body | {"deadline_ms": 200})
        passes.let_go()
        whole = (await client.post("/rerank", json=body)).json()["results"]
    assert first.headers["X-Rerank-Scored"] == "2/5"
    assert all(row["relevance_score"] is not None for row in whole)
    # Three more, and perhaps once more the one that was being computed at the deadline.
    assert backend.computed in (5, 6)


async def test_a_pair_that_another_request_computes_is_waited_for_until_the_deadline_only(connect: Connect) -> None:
    passes = Passes(0)
    async with connect(FakeBackend(passes)) as client:
        body = {"query": QUERY, "documents": TEXTS}
        other = asyncio.create_task(client.post("/rerank", json=body))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            reply = await client.post("/rerank", json=body | {"deadline_ms": 150})
        passes.let_go()
        assert (await other).status_code == 200
    assert json.loads(reply.text)["partial"] is True
    assert reply.headers["X-Rerank-Scored"] == "0/5"
