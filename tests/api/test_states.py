"""What callers and probes see while the server loads, is overloaded, drains or is dead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from reranker_serve.app import create_app
from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.errors import BackendLost
from reranker_serve.lifecycle import Process
from reranker_serve.types import EncodedItem
from tests.conftest import Connect, Gate, fake_settings

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}


async def test_before_it_is_loaded_everything_says_so(tmp_path: Path) -> None:
    app = create_app(fake_settings(model_path=str(tmp_path)))  # its lifespan never starts, so it never loads
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for reply in [await client.get("/ready"), await client.get("/health"), await client.post("/rerank", json=GOOD)]:
            assert reply.status_code == 503
            assert int(reply.headers["Retry-After"]) >= 1
            assert "being loaded" in reply.text
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/info")).status_code == 503


async def test_a_model_that_cannot_be_loaded_is_reported_once(tmp_path: Path) -> None:
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()
    app = create_app(
        fake_settings(model_path=str(tmp_path / "nowhere")),
        process=Process(on_failure=lambda: loop.call_soon_threadsafe(failed.set)),
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        await asyncio.wait_for(failed.wait(), 10)
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "failed"
        assert "nowhere" in ready.json()["reason"]
        assert (await client.get("/live")).status_code == 503


async def test_when_drained_it_is_not_ready_any_more() -> None:
    app = create_app(fake_settings(), fake_scorer())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        async with app.router.lifespan_context(app):
            assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/ready")).json()["status"] == "draining"
        assert (await client.post("/rerank", json=GOOD)).status_code == 503
        assert (await client.get("/live")).status_code == 200


async def test_draining_waits_for_what_was_admitted_and_refuses_the_rest(gate: Gate) -> None:
    app = create_app(fake_settings(), fake_scorer(FakeBackend(gate, batch_token_cap=8)))
    lifespan = app.router.lifespan_context(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=10) as client:
        await lifespan.__aenter__()
        admitted = asyncio.create_task(client.post("/rerank", json=GOOD))
        await gate.entered()
        draining = asyncio.ensure_future(lifespan.__aexit__(None, None, None))
        await asyncio.sleep(0.05)
        assert not draining.done()
        assert (await client.get("/ready")).json()["status"] == "draining"
        refused = await client.post("/rerank", json=GOOD)
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["detail"]
        gate.open()
        await asyncio.wait_for(draining, 10)
        assert (await admitted).status_code == 200
        assert len((await admitted).json()["results"]) == 2


async def test_a_dead_model_thread_is_loud(connect: Connect) -> None:
    def die(_: Sequence[EncodedItem]) -> None:
        raise BackendLost("the device fell off the bus")

    async with connect(FakeBackend(die)) as client:
        reply = await client.post("/rerank", json=GOOD)
        assert reply.status_code == 503
        for path in ("/ready", "/live", "/health"):
            probe = await client.get(path)
            assert probe.status_code == 503
            assert probe.json()["status"] == "dead"
            assert "fell off the bus" in probe.json()["reason"]
        assert (await client.post("/v1/rerank", json=GOOD)).status_code == 503


async def queue_holds(tokens: int, client: httpx.AsyncClient) -> None:
    """Until that many tokens wait."""
    async with asyncio.timeout(5):
        while f"reranker_queue_tokens {tokens}.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_overload_is_429_with_whole_seconds(connect: Connect, gate: Gate) -> None:
    async with connect(FakeBackend(gate, batch_token_cap=8), max_queue_tokens="28", cache_entries="0") as client:
        first = asyncio.create_task(client.post("/rerank", json=GOOD))
        await gate.entered()
        second = asyncio.create_task(client.post("/rerank", json=GOOD))
        await queue_holds(18, client)
        refused = await client.post("/v2/rerank", json=GOOD)
        gate.open()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert "overloaded" in refused.json()["message"]
        assert (await first).status_code == (await second).status_code == 200


async def test_a_failure_of_the_model_is_500_for_its_request_only(connect: Connect) -> None:
    def fail(items: Sequence[EncodedItem]) -> None:
        if any(len(item) > 8 for item in items):
            raise ValueError("secret detail")

    async with connect(FakeBackend(fail)) as client:
        reply = await client.post("/rerank", json={"query": "a", "documents": ["b " * 20]})
        assert reply.status_code == 500
        assert "secret" not in reply.text
        assert (await client.post("/rerank", json=GOOD)).status_code == 200


async def test_a_client_that_goes_away_stops_its_work(gate: Gate) -> None:
    backend = FakeBackend(gate, batch_token_cap=8)
    app = create_app(fake_settings(), fake_scorer(backend))
    body = {"query": "a b", "documents": [f"c d {i}" for i in range(100)]}
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/rerank", "headers": [], "query_string": b""}
    async with app.router.lifespan_context(app):
        messages.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        request = asyncio.create_task(app(scope, messages.get, send))
        await gate.entered()
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(request, 5)
        gate.open()
    assert backend.computed <= 2
    assert sent == []


@pytest.mark.parametrize("given", ["abc-123", "x" * 128])
async def test_the_callers_request_id_is_echoed(given: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=GOOD, headers={"X-Request-ID": given})
    assert reply.headers["X-Request-ID"] == given == reply.json()["id"]


@pytest.mark.parametrize("given", [None, "", "two words", "x" * 129, "caf\u00e9"])
async def test_no_or_an_unsafe_request_id_is_replaced(given: str | None, connect: Connect) -> None:
    headers = {} if given is None else {b"X-Request-ID": given.encode()}
    async with connect() as client:
        ids = [(await client.get("/health", headers=headers)).headers["X-Request-ID"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(one.startswith("req-") for one in ids)


def access_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "reranker_serve.access"]


async def test_each_request_has_one_access_line_without_its_text(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "reranker_serve.access")
    async with connect() as client:
        await client.post("/v1/rerank", json=GOOD, headers={"X-Request-ID": "abc"})
        await client.post("/rerank", json=GOOD | {"query": ""})
        await client.get("/health")
    scored, refused = access_lines(caplog)
    assert scored.startswith("POST /v1/rerank 200 ")
    assert " dialect=cohere_v1 documents=2 tokens=12 queue_ms=" in scored
    assert scored.endswith(" id=abc")
    assert refused.startswith("POST /rerank 400 ")
    assert " error=InvalidRequest " in refused
    assert "whale" not in scored + refused


async def test_a_path_cannot_forge_an_access_line(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "reranker_serve.access")
    async with connect() as client:
        await client.get("/x%0D%0APOST%20/rerank%20200%1b[31m%E2%80%A8")
    (line,) = access_lines(caplog)
    assert line.startswith("GET /x%0D%0APOST%20/rerank%20200%1B%5B31m%E2%80%A8 404 ")


async def test_a_client_that_goes_away_while_it_sends_gets_nothing() -> None:
    backend = FakeBackend()
    app = create_app(fake_settings(), fake_scorer(backend))
    messages = iter(
        [{"type": "http.request", "body": b'{"query": "a", ', "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/rerank", "headers": [], "query_string": b""}
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(app(scope, receive, send), 5)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            metrics = (await client.get("/metrics")).text
    assert sent == []
    assert backend.computed == 0
    assert 'reranker_requests_total{dialect="native",status="499"} 1.0' in metrics
