from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from reranker_serve.telemetry.logs import FIELDS, JsonFormatter
from tests.conftest import Connect

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}


def access(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The access lines as JSON says them."""
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name == "reranker_serve.access"]
    assert not any("\n" in line for line in lines)
    return [json.loads(line) for line in lines]


async def test_the_access_line_has_a_request_s_size_and_times(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "reranker_serve.access")
    async with connect() as client:
        await client.post("/v2/rerank", json=GOOD, headers={"X-Request-ID": "abc"})
    (line,) = access(caplog)
    wanted = {"method": "POST", "path": "/v2/rerank", "status": 200, "dialect": "cohere_v2", "id": "abc"}
    assert wanted.items() <= line.items()
    assert (line["documents"], line["tokens"], line["level"]) == (2, 12, "INFO")
    assert 0 <= line["queue_ms"] <= line["total_ms"]
    assert 0 <= line["inference_ms"] <= line["total_ms"]
    assert line["message"].startswith("POST /v2/rerank 200 ")
    assert not line.keys() & {"key", "error", "trace_id"}


async def test_a_refused_request_has_its_error_and_no_times(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "reranker_serve.access")
    async with connect() as client:
        await client.post("/rerank", json=GOOD | {"query": ["secret"]})
    (line,) = access(caplog)
    assert (line["status"], line["error"]) == (400, "InvalidRequest")
    assert not line.keys() & {"queue_ms", "inference_ms"}
    assert "secret" not in json.dumps(line)


async def test_the_key_s_name_is_in_the_line(
    connect: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "reranker_serve.access")
    (tmp_path / "keys").write_text("team-a: s3cret\n")
    async with connect(api_key_file=str(tmp_path / "keys")) as client:
        await client.post("/rerank", json=GOOD, headers={"X-Api-Key": "s3cret"})
    (line,) = access(caplog)
    assert line["key"] == "team-a"
    assert " key=team-a " in line["message"]
    assert "s3cret" not in str(line)


def test_a_traceback_stays_on_one_line_of_json() -> None:
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "bad: %s", ("a\nb",), sys.exc_info())
    setattr(record, FIELDS, {"documents": 3})
    text = JsonFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text
    assert (line["message"], line["documents"]) == ("bad: a\nb", 3)
    assert line["exception"].endswith("RuntimeError: two\nlines")


async def test_a_request_that_is_given_up_is_logged_as_such(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "reranker_serve.access")
    async with connect(request_timeout="0.000001") as client:
        reply = await client.post("/rerank", json=GOOD)
        await asyncio.sleep(0)
    (line,) = access(caplog)
    assert reply.status_code == line["status"] == 504
    assert (line["error"], line["documents"]) == ("DeadlineExceeded", 2)
