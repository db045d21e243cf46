"""Each dialect's requests and full replies, field by field. A new field is a diff in a golden file."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.api.body import parse_object, validate
from reranker_serve.api.description import examples_of
from reranker_serve.api.dialect import Call, Dialect
from reranker_serve.api.dialects.table import DIALECTS, DialectTable
from reranker_serve.backends.fake import FakeBackend
from reranker_serve.errors import InvalidRequest
from reranker_serve.types import RerankRequest, ScoreRequest
from tests.api.record_examples import REQUESTS
from tests.api.record_golden import CHANGING
from tests.conftest import Connect

GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "golden").glob("*.json"))}
TABLE = DialectTable(DIALECTS)


def dialect_of(case: dict[str, Any]) -> str:
    told = TABLE.tell(Call.of(case["path"], list(case.get("headers", {})), case["request"]))
    assert told is not None
    return told.name


def test_every_dialect_has_golden_requests() -> None:
    assert {dialect_of(case) for case in GOLDEN.values()} == {dialect.name for dialect in DIALECTS}


@pytest.mark.parametrize("name", GOLDEN)
async def test_the_reply_is_the_golden_one(name: str, connect: Connect) -> None:
    case = GOLDEN[name]
    async with connect(max_documents="20") as client:
        reply = await client.post(case["path"], json=case["request"], headers=case.get("headers"))
    assert reply.status_code == case["status"]
    body = reply.json()
    if isinstance(body, dict):
        assert {name for name in body if name in CHANGING} == set(case["changing"])
        body = {name: value for name, value in body.items() if name not in CHANGING}
    assert body == case["reply"]


def shape(value: Any) -> Any:
    """Names and types alone; of a list the first entry."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_the_examples_of_the_documentation_work(dialect: Dialect, connect: Connect) -> None:
    examples = examples_of(dialect)
    async with connect() as client:
        for path in dialect.paths:
            replies = [
                await client.post(path.replace("{model:path}", "a/b"), json=request)
                for request in examples["requests"].values()
            ]
            assert all(reply.status_code == 200 for reply in replies)
            assert shape(replies[0].json()) == shape(examples["reply"])


def test_the_recorded_examples_are_those_of_the_recorder() -> None:
    assert {dialect.name: examples_of(dialect)["requests"] for dialect in DIALECTS} == REQUESTS


ECHO = [
    ("/rerank", "documents", "return_documents", True),
    ("/v1/rerank", "documents", "return_documents", False),
    ("/v2/rerank", "documents", "return_documents", False),
    ("/api/v1/rerank", "documents", "return_documents", True),
    ("/vllm/rerank", "documents", "return_documents", True),
    ("/infinity/rerank", "documents", "return_documents", False),
    ("/xinference/v1/rerank", "documents", "return_documents", False),
    ("/voyage/v1/rerank", "documents", "return_documents", False),
    ("/pinecone/rerank", "documents", "return_documents", True),
    ("/v1/reranking", "input", "return_input", False),
    ("/tei/rerank", "texts", "return_text", False),
]


@pytest.mark.parametrize(("path", "list_field", "field", "by_default"), ECHO)
async def test_documents_are_echoed_as_asked_and_null_means_the_default(
    path: str, list_field: str, field: str, by_default: bool, connect: Connect
) -> None:
    body: dict[str, Any] = {"query": "a", list_field: ["a"]}
    async with connect() as client:
        for asked, expected in [({}, by_default), ({field: None}, by_default)] + [
            ({field: wanted}, wanted) for wanted in (True, False)
        ]:
            content = (await client.post(path, json=body | asked)).json()
            rows = content if isinstance(content, list) else content.get("data") or content["results"]
            assert (not {"document", "text", "input"}.isdisjoint(rows[0])) == expected


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
FIELDS = sorted(
    {name for dialect in DIALECTS for name in dialect.body.model_fields}
    | {name for dialect in DIALECTS for name in dialect.ignored}
    | {"docs", "top_k", "instruct", "truncation", "truncation_direction", "text_1", "items"}
)


@given(body=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6) | JSON)
def test_any_json_is_a_request_or_an_error_of_one_line(body: Any) -> None:
    for dialect in DIALECTS:
        result = request_or_error(dialect, json.dumps(body).encode())
        if isinstance(result, InvalidRequest):
            assert str(result)
            assert "\n" not in str(result)
        else:
            parts = result.requests if isinstance(result, ScoreRequest) else (result,)
            assert all(isinstance(text, str) for part in parts for text in part.documents)


def request_or_error(dialect: Dialect, body: bytes) -> RerankRequest | ScoreRequest | InvalidRequest:
    try:
        return dialect.to_core(validate(parse_object(body), dialect.body))
    except InvalidRequest as error:
        return error


# Each dialect's words for: query, documents, and the best n.
WORDS: dict[str, tuple[str | None, str, str | None]] = {
    "mixedbread": ("query", "input", "top_k"),
    "tei": ("query", "texts", None),
    "hf": ("query", "texts", "top_k"),
    "nim": ("query", "passages", None),
    "voyage": ("query", "documents", "top_k"),
    "vllm_score": ("queries", "documents", None),
    "tei_predict": (None, "inputs", None),
}


def body_in(dialect: Dialect, query: str, documents: list[Any]) -> dict[str, Any]:
    """A query and its documents in a dialect's words."""
    ask, texts, _ = WORDS.get(dialect.name, ("query", "documents", "top_n"))
    return {texts: [[query, text] for text in documents]} if ask is None else {ask: query, texts: documents}


@given(
    query=st.text(min_size=1, max_size=10),
    documents=st.lists(st.text(max_size=10), min_size=1, max_size=4),
    top_n=st.none() | st.integers(0, 9),
    options=st.fixed_dictionaries(
        {},
        optional={
            "priority": st.integers(-5, 5),
            "truncate": st.booleans() | st.sampled_from(["END", "NONE", "START"]),
            "max_tokens_per_doc": st.none() | st.integers(0, 99),
            "truncation_side": st.sampled_from(["left", "Right", None]),
            "max_chunks_per_doc": st.none() | st.integers(1, 9),
            "instruction": st.none() | st.text(max_size=5),
            "truncate_prompt_tokens": st.none() | st.integers(-1, 99),
        },
    ),
)
def test_every_dialect_asks_the_same_of_the_core(
    query: str, documents: list[str], top_n: int | None, options: dict[str, Any]
) -> None:
    requests = set()
    for dialect in DIALECTS:
        best = WORDS.get(dialect.name, ("query", "documents", "top_n"))[2]
        body = {**body_in(dialect, query, documents), "model": "m", **options} | ({best: top_n} if best else {})
        core = dialect.to_core(validate(parse_object(json.dumps(body).encode()), dialect.body))
        core = core.requests[0] if isinstance(core, ScoreRequest) else core
        # Those without the best n return all; NIM always gives raw scores.
        requests.add(dataclasses.replace(core, top_n=core.top_n if best else top_n or None, raw_scores=False))
    assert len(requests) == 1
