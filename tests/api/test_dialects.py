"""Each dialect's requests and full replies, field by field. A new field is a diff in a golden file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.api.body import parse
from reranker_serve.api.dialects import Dialect, all_dialects
from reranker_serve.backends.fake import FakeBackend
from reranker_serve.errors import InvalidRequest
from reranker_serve.types import RerankRequest
from tests.conftest import Connect

GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "golden").glob("*.json"))}
CHANGING = {"id", "created", "timings"}


def test_every_dialect_has_a_golden_file() -> None:
    covered = {case["path"] for case in GOLDEN.values()}
    assert covered == {path for dialect in all_dialects() for path in dialect.paths}


@pytest.mark.parametrize("name", GOLDEN)
async def test_the_reply_is_the_golden_one(name: str, connect: Connect) -> None:
    case = GOLDEN[name]
    async with connect() as client:
        reply = await client.post(case["path"], json=case["request"])
    assert reply.status_code == 200
    body = reply.json()
    assert {name for name in body if name in CHANGING} == set(case["changing"])
    assert {name: value for name, value in body.items() if name not in CHANGING} == case["reply"]


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda dialect: dialect.name)
async def test_the_examples_of_the_documentation_work(dialect: Dialect, connect: Connect) -> None:
    async with connect() as client:
        for path in dialect.paths:
            for example in dialect.examples.values():
                reply = await client.post(path, json=example["value"])
                assert reply.status_code == 200
                assert set(reply.json()) == set(dialect.reply_example)
                assert set(reply.json()["results"][0]) == set(dialect.reply_example["results"][0])


@pytest.mark.parametrize(
    ("path", "by_default"), [("/rerank", True), ("/v1/rerank", False), ("/v2/rerank", False), ("/api/v1/rerank", True)]
)
async def test_documents_are_echoed_as_asked_and_null_means_the_default(
    path: str, by_default: bool, connect: Connect
) -> None:
    body: dict[str, Any] = {"query": "a", "documents": ["a"]}
    async with connect() as client:
        for asked, expected in [({}, by_default), ({"return_documents": None}, by_default)] + [
            ({"return_documents": wanted}, wanted) for wanted in (True, False)
        ]:
            row = (await client.post(path, json=body | asked)).json()["results"][0]
            assert ("document" in row) == expected


async def test_a_large_body_is_answered_like_a_small_one(connect: Connect) -> None:
    documents = [f"the blue whale {i} " + "x" * 300 for i in range(1000)]
    async with connect() as client:
        large = await client.post("/v1/rerank", json={"query": "whale 7", "documents": documents, "top_n": 1})
        small = await client.post("/v1/rerank", json={"query": "whale 7", "documents": documents[:8], "top_n": 1})
    assert len(large.request.content) > 256 * 1024
    assert large.json()["results"] == small.json()["results"]
    assert large.json()["results"][0]["index"] == 7
    assert large.json()["meta"]["billed_units"]["search_units"] == 10


async def test_many_callers_at_once_get_their_own_answers(connect: Connect) -> None:
    async with connect(FakeBackend(batch_token_cap=40)) as client:

        async def ask(number: int) -> int:
            documents = [f"document {n}" for n in range(number + 5)]
            reply = await client.post("/rerank", json={"query": f"q {number}", "documents": documents})
            assert len(reply.json()["results"]) == number + 5
            best: int = reply.json()["results"][0]["index"]
            return best

        assert await asyncio.gather(*map(ask, range(30))) == list(range(30))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["query", "documents", "top_n", "return_documents", "rank_fields", "model", "max_length", "raw_scores"]


@given(body=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6) | JSON)
def test_any_json_is_a_request_or_an_error_of_one_line(body: Any) -> None:
    for dialect in all_dialects():
        result = request_or_error(dialect, json.dumps(body).encode())
        if isinstance(result, InvalidRequest):
            assert str(result)
            assert "\n" not in str(result)
        else:
            assert all(isinstance(text, str) for text in result.documents)


def request_or_error(dialect: Dialect, body: bytes) -> RerankRequest | InvalidRequest:
    try:
        request: RerankRequest = dialect.to_core(parse(body, dialect.body))
    except InvalidRequest as error:
        return error
    return request


@given(
    query=st.text(min_size=1, max_size=10),
    documents=st.lists(st.text(max_size=10), min_size=1, max_size=4),
    top_n=st.none() | st.integers(0, 9),
)
def test_every_dialect_asks_the_same_of_the_core(query: str, documents: list[str], top_n: int | None) -> None:
    body = json.dumps({"query": query, "documents": documents, "top_n": top_n, "model": "m"}).encode()
    requests = {dialect.to_core(parse(body, dialect.body)) for dialect in all_dialects()}
    assert len(requests) == 1
