"""Wrong input is a clear one-line error in every place clients look for it; odd input is scored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from reranker_serve.api.dialects.table import DIALECTS
from tests.conftest import Connect

PATHS = [
    path.replace("{model:path}", "vendor/model")
    for dialect in DIALECTS
    for path in dialect.paths
    if dialect.name not in ("vllm_score", "tei_predict")
]
# Where documents are understood in the words of the usual dialects.
USUAL = ["/rerank", "/v1/rerank", "/v2/rerank", "/api/v1/rerank", "/vllm/rerank", "/voyage/v1/rerank", "/ranking"]
GOOD: dict[str, Any] = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}


def message(reply: httpx.Response) -> str:
    """The error's line, which is the same in every place clients look for it."""
    body = reply.json()
    line: str = body["detail"]
    error = body["error"] if isinstance(body["error"], dict) else body
    assert line == body["message"] == error["message"]
    assert error["code"] == reply.status_code
    assert line
    assert "\n" not in line
    assert "Traceback" not in reply.text
    return line


def changed(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def nested(depth: int) -> bytes:
    """A document that would be echoed, with a surrogate to clean up at the bottom."""
    return b'{"query": "a", "documents": [{"text": "a", "x": %b"\\ud83d"%b}]}' % (b"[" * depth, b"]" * depth)


@pytest.mark.parametrize("path", USUAL)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"query":', "not valid JSON"),
        (b"", "empty"),
        (b"   ", "empty"),
        (b"[1, 2]", "JSON object"),
        (b'"text"', "JSON object"),
        (b'{"documents": ["a"]}', "query is required"),
        (changed(query=5), "query"),
        (changed(query=None), "query"),
        (changed(query=["a"]), "query"),
        (changed(query=""), "query must not be empty"),
        (changed(query=" \n\t"), "query must not be empty"),
        (changed(documents=[]), "documents must not be empty"),
        (changed(documents=7), "documents must be a list"),
        (changed(texts=["a"]), "documents and texts are both given"),
        (changed(documents=["a", 5]), "document 1 is neither"),
        (changed(documents=[["a"]]), "document 0 is neither"),
        (changed(documents=["a", None]), "document 1 is neither"),
        (changed(documents=["a", {"body": "b"}]), "document 1 has no text"),
        (changed(documents=[{"body": "b"}], rank_fields=["title", "abstract"]), "document 0 has no title, abstract"),
        (changed(documents=["a"] * 21), "21 documents, at most 20"),
        (changed(top_n=-1), "top_"),
        (changed(top_n="many"), "top_n"),
        (changed(top_n=1.5), "top_n"),
        (changed(rank_fields="text"), "rank_fields"),
        (changed(return_documents="perhaps"), "return_documents"),
        (b'{"query": NaN, "documents": ["a"]}', "NaN"),
        (b'{"query": "a", "documents": ["a"], "top_n": Infinity}', "Infinity"),
        (b'{"query": "a", "documents": ["a"], "top_n": -Infinity}', "-Infinity"),
        (b'{"query": "a", "documents": ["a"], "top_n": 1e999}', "1e999"),
        (b'{"query": "a", "documents": ["a"], "top_n": ' + b"9" * 5000 + b"}", "JSON"),
        (b"[" * 100_000, "nested"),
        *((nested(depth), "nested") for depth in (101, 400, 600, 900)),
        (b'{"query": "a", "documents": [{"text": "a", "n": 1e999}]}', "1e999"),
        (b'{"query": "\xff\xfe", "documents": ["a"]}', "not valid JSON"),
        (b"\x00\x01\x02", "not valid JSON"),
    ],
)
async def test_wrong_input_is_400_and_says_what_is_wrong(path: str, body: bytes, said: str, connect: Connect) -> None:
    async with connect(max_documents="20") as client:
        reply = await client.post(path, content=body)
        assert reply.status_code == 400
        assert said in message(reply)
        assert (await client.post(path, json=GOOD)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        changed(documents=["", "   ", "a"]),
        changed(documents=["\x00\x00", "a\x00b"]),
        changed(documents=["\ud83d", "a \udc00 b", "\ud83d\ude00"]),
        json.dumps(GOOD | {"documents": ["\ud83d cut"]}, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        changed(documents=["\u202eabc\u202c", "\ufeff", "\U0010ffff"]),
        changed(unknown_field={"a": 1}, model="anything", documents=["a"] * 5),
        json.dumps(GOOD).encode("utf-16"),
        changed(documents=["cut \ud83d"]).decode().encode("utf-16"),
        changed(documents=[{"text": "a", "deep": [[[[[[[[[[1.5e300]]]]]]]]]]}]),
        changed(top_n=10**40),
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    ],
)
async def test_odd_text_is_scored(body: bytes, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", content=body, headers={"Content-Type": "text/plain"})
    assert reply.status_code == 200
    assert {row["index"] for row in reply.json()["results"]} == set(range(len(reply.json()["results"])))


async def test_lone_surrogates_become_replacement_characters(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", content=changed(documents=["cut \ud83d", "whole \ud83d\ude00"]))
    echoed = {row["index"]: row["document"]["text"] for row in reply.json()["results"]}
    assert echoed == {0: "cut \ufffd", 1: "whole \U0001f600"}


@pytest.mark.parametrize("top_n", [0, None, 2, 3, 1000, "2"])
async def test_top_n_of_zero_null_or_more_means_all(top_n: object, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=GOOD | {"top_n": top_n})
    assert len(reply.json()["results"]) == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        (GOOD | {"query": " "}, "query"),
        (GOOD | {"documents": [1]}, "documents"),
        (GOOD | {"documents": [{}]}, "documents"),
        (GOOD | {"documents": ["a"] * 3}, "documents"),
        (GOOD | {"top_n": -1}, "top_n"),
        (GOOD | {"rank_fields": [1]}, "rank_fields"),
        (GOOD | {"max_length": 1}, "max_length"),
        (GOOD | {"instruction": "be brief"}, "instruction"),
        ([], None),
    ],
)
async def test_the_error_names_the_field_for_programs(body: object, param: str | None, connect: Connect) -> None:
    async with connect(max_documents="2") as client:
        reply = await client.post("/rerank", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


async def test_max_length_out_of_bounds_names_the_bounds(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=GOOD | {"max_length": 100_000})
    assert reply.status_code == 400
    assert message(reply) == "max_length must be from 4 to 512, got 100000"


async def test_an_instruction_is_refused_by_a_model_that_takes_none(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=GOOD | {"instruction": "be brief"})
    assert reply.status_code == 400
    assert "takes no instruction" in message(reply)


async def test_a_declared_body_over_the_limit_is_413_before_any_of_it_is_read(connect: Connect) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        sent += 1
        yield b" "

    async with connect(max_body_bytes="2000") as client:
        reply = await client.post("/v1/rerank", content=body(), headers={"Content-Length": "2001"})
        assert reply.status_code == 413
        assert sent == 0
        assert "2000 bytes" in message(reply)
        padded = json.dumps(GOOD).encode().ljust(2000)
        assert (await client.post("/v1/rerank", content=padded)).status_code == 200
        assert (await client.post("/v1/rerank", content=padded + b" ")).status_code == 413


async def test_a_streamed_body_over_the_limit_is_refused_while_it_comes_in(connect: Connect) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b"x" * 1000

    async with connect(max_body_bytes="5000") as client:
        reply = await client.post("/rerank", content=endless())
    assert reply.status_code == 413
    assert sent <= 7000


async def test_another_model_is_404_in_strict_mode_only(connect: Connect) -> None:
    body = GOOD | {"model": "other"}
    async with connect() as client:
        assert (await client.post("/v2/rerank", json=body)).status_code == 200
    async with connect(strict_model="true") as client:
        reply = await client.post("/v2/rerank", json=body)
        assert reply.status_code == 404
        assert "'fake'" in message(reply)
        assert (await client.post("/v2/rerank", json=GOOD | {"model": "fake"})).status_code == 200
        assert (await client.post("/v2/rerank", json=GOOD)).status_code == 200


@pytest.mark.parametrize("odd", ["x\ny", "x\r\n\u2028y", "x" * 100_000])
async def test_what_an_error_quotes_of_the_request_stays_one_short_line(odd: str, connect: Connect) -> None:
    async with connect(strict_model="true") as client:
        for path, body, status in [
            ("/rerank", GOOD | {"model": odd}, 404),
            ("/v1/rerank", GOOD | {"documents": [{"body": "b"}], "rank_fields": [odd]}, 400),
            ("/rerank", GOOD | {"max_length": int("9" * 1000)}, 400),
            (f"/{odd[:5000]}".replace("\n", "%0A").replace("\r", "%0D"), GOOD, 404),
        ]:
            reply = await client.post(path, json=body)
            assert reply.status_code == status
            line = message(reply)
            assert len(line) <= 500
            assert line.splitlines() == [line]


async def test_a_request_that_can_never_fit_the_queue_is_413(connect: Connect) -> None:
    async with connect(max_queue_tokens="10") as client:
        reply = await client.post("/rerank", json=GOOD | {"documents": ["a b c", "d e f", "g h i"]})
    assert reply.status_code == 413
    assert "fewer documents" in message(reply)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
async def test_rerank_paths_take_post_only(path: str, method: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.request(method, path)
    assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")
    assert "POST" in message(reply)


async def test_wrong_method_and_unknown_path(connect: Connect) -> None:
    async with connect() as client:
        wrong = await client.post("/metrics")
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, "GET")
        assert "GET" in message(wrong)
        missing = await client.post("/nowhere", json=GOOD)
        assert missing.status_code == 404
        assert "POST to /rerank" in message(missing)


@pytest.mark.parametrize("path", ["/rerank/", "/rerank//", "/v1//rerank", "/v1/rerank/", "/api/v1/rerank/", "/health/"])
async def test_slashes_are_answered_without_a_redirect(path: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await (client.get(path) if "health" in path else client.post(path, json=GOOD))
    assert reply.status_code == 200
    assert not reply.history
