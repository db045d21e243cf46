"""Wild input, in this process for speed: an answer or one of our errors, and soon."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reranker_serve.api.body import parse_json, validate
from reranker_serve.api.dialect import Call, check_lists
from reranker_serve.api.dialects.table import DIALECTS, DialectTable
from reranker_serve.app import create_app
from reranker_serve.backends.fake import fake_scorer
from reranker_serve.errors import RequestError
from reranker_serve.types import RerankRequest, ScoreRequest
from tests.api.test_schema import FIELDS, PATHS, WILD
from tests.conftest import fake_settings
from tests.reliability.conftest import Report
from tests.reliability.load import FULL
from tests.reliability.traffic import examples

# 10^5 together in the long form.
PARSED, UNDERSTOOD, SENT = (60_000, 25_000, 15_000) if FULL else (300, 300, 150)
TABLE = DialectTable(DIALECTS)


def inputs(number: int) -> settings:
    return settings(
        max_examples=number,
        deadline=timedelta(seconds=2),
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A documented body with a few bytes or pieces put in, left out or doubled."""
    raw = json.dumps(draw(st.sampled_from(examples()))[1]).encode()
    pieces = st.binary(max_size=4) | st.sampled_from(
        [
            b"{",
            b"}",
            b"[" * 50,
            b"]",
            b'"',
            b"\\",
            b"\\ud800",
            b"\\u0000",
            b"1e999",
            b"-0",
            b"NaN",
            b"null",
            b"\xff\xfe",
        ]
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(pieces) + raw[at + draw(st.integers(0, 8)) :]
    return raw


BYTES = st.binary(max_size=200) | spoiled()
TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)  # lone surrogates too
VALUE = WILD | TEXT | st.lists(TEXT | st.dictionaries(st.sampled_from(["text", "content", "title"]), WILD), max_size=4)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A documented body with some of its fields, and of other dialects', exchanged."""
    body = dict(draw(st.sampled_from(examples()))[1])
    for name in draw(st.lists(st.sampled_from([*body]), max_size=2)):
        body.pop(name, None)
    return body | draw(st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=3))


def test_no_bytes_upset_the_parser(report: Report) -> None:
    read = refused = 0

    @inputs(PARSED)
    @given(raw=BYTES)
    def check(raw: bytes) -> None:
        nonlocal read, refused
        try:
            json.dumps(parse_json(raw), allow_nan=False).encode()
            read += 1
        except RequestError:
            refused += 1

    check()
    report(read=read, refused=refused)
    assert min(read, refused) > 0.01 * PARSED


def test_no_body_upsets_a_dialect(report: Report) -> None:
    understood = refused = 0

    @inputs(UNDERSTOOD)
    @given(path=st.sampled_from(PATHS), body=bodies())
    def check(path: str, body: dict[str, Any]) -> None:
        nonlocal understood, refused
        call = Call.of(path, [], body)
        dialect = TABLE.tell(call)
        assert dialect is not None
        try:
            check_lists(call)
            core = dialect.to_core(validate(body, dialect.body))
            assert isinstance(core, RerankRequest | ScoreRequest)
            understood += 1
        except RequestError as error:
            json.dumps(dialect.error(error, 400), allow_nan=False)
            refused += 1

    check()
    report(understood=understood, refused=refused)
    assert min(understood, refused) > 0.05 * UNDERSTOOD


async def post(app: FastAPI, path: str, raw: bytes) -> tuple[int, bytes]:
    """Through the application as a server calls it, without the cost of a client."""
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            messages.append({})
            return {"type": "http.request", "body": raw, "more_body": False}
        return await asyncio.Future[dict[str, Any]]()  # the client stays

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-length", str(len(raw)).encode())],
    }
    await app(scope, receive, send)
    return messages[1]["status"], b"".join(message.get("body", b"") for message in messages[2:])


def test_no_bytes_are_a_500(report: Report) -> None:
    app = create_app(fake_settings(model_name="fake"), fake_scorer())
    answers: dict[int, int] = {}
    with asyncio.Runner() as runner:
        alive = contextlib.AsyncExitStack()
        runner.run(alive.enter_async_context(app.router.lifespan_context(app)))

        @inputs(SENT)
        @given(path=st.sampled_from([*PATHS, "/tokenize"]), raw=BYTES | bodies().map(as_json))
        def check(path: str, raw: bytes) -> None:
            status, content = runner.run(asyncio.wait_for(post(app, path, raw), 5))
            answers[status] = answers.get(status, 0) + 1
            assert status in (200, 400, 413, 422), content
            json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in a reply"))

        try:
            check()
        finally:
            runner.run(alive.aclose())
    report(answers=answers)
    assert answers.keys() >= ({200, 400, 422} if FULL else {200, 400})  # a few inputs may meet none that is 422


def as_json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()
