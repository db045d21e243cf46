"""Spans, with the SDK's own exporter in memory; and a real server that sends them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from reranker_serve.app import create_app
from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.telemetry.otel import OpenTelemetry
from reranker_serve.telemetry.setup import tracing_from_environment
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import EncodedItem
from tests.conftest import Gate, fake_settings
from tests.server.processes import FAKE_SERVER, running

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


@asynccontextmanager
async def traced(
    exporter: InMemorySpanExporter, backend: FakeBackend | None = None, share: float = 1.0
) -> AsyncIterator[httpx.AsyncClient]:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(fake_settings(cache_entries="0"), fake_scorer(backend), tracing=OpenTelemetry(provider))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=10) as client:
            yield client


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


async def test_a_request_continues_the_caller_s_trace() -> None:
    exporter = InMemorySpanExporter()
    async with traced(exporter) as client:
        reply = await client.post("/rerank", json=GOOD, headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
        await client.get("/health")
    assert reply.status_code == 200
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert sorted(spans) == ["forward", "queue", "rerank", "tokenize"]
    request = spans["rerank"]
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == CALLER
    for span in spans.values():
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE
    for name in ("tokenize", "queue", "forward"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == span_id(request)
        assert times(request)[0] <= times(spans[name])[0] <= times(spans[name])[1] <= times(request)[1]
    assert times(spans["tokenize"])[1] <= times(spans["queue"])[0]
    assert times(spans["queue"])[1] <= times(spans["forward"])[0]
    facts = {"reranker.dialect": "native", "reranker.documents": 2, "reranker.tokens": 12, "reranker.status": 200}
    assert facts.items() <= dict(request.attributes or {}).items()
    assert dict(spans["forward"].attributes or {}) == {"reranker.items": 2, "reranker.tokens": 12}


async def test_a_batch_links_every_request_it_serves(gate: Gate) -> None:
    exporter = InMemorySpanExporter()
    async with traced(exporter, FakeBackend(gate)) as client:
        first = asyncio.create_task(client.post("/rerank", json=GOOD))
        await gate.entered()
        others = [asyncio.create_task(client.post("/rerank", json=GOOD | {"query": q})) for q in ("a", "b", "c")]
        for _ in range(500):
            if "reranker_queue_tokens 30.0" in (await client.get("/metrics")).text:
                break
            await asyncio.sleep(0.01)
        gate.open()
        assert {(await task).status_code for task in [first, *others]} == {200}
    alone, together = sorted(named(exporter, "forward"), key=lambda span: times(span)[0])
    requests = {span_id(span) for span in named(exporter, "rerank")}
    linked = {link.context.span_id for link in together.links}
    assert len(alone.links) == 1
    assert len(linked) == 3
    assert linked | {alone.links[0].context.span_id} == requests
    assert len(named(exporter, "queue")) == 4


async def test_a_request_that_is_not_sampled_makes_no_spans() -> None:
    exporter = InMemorySpanExporter()
    async with traced(exporter, share=0.0) as client:
        assert (await client.post("/rerank", json=GOOD)).status_code == 200
    assert exporter.get_finished_spans() == ()


async def test_failures_are_marked_and_leave_nothing_behind() -> None:
    def fail(items: Sequence[EncodedItem]) -> None:
        raise RuntimeError("bad weights")

    exporter = InMemorySpanExporter()
    async with traced(exporter, FakeBackend(fail)) as client:
        assert (await client.post("/rerank", json=GOOD)).status_code == 500
    (request,) = named(exporter, "rerank")
    assert request.status.status_code is StatusCode.ERROR
    assert request.status.description == "InferenceFailed"
    assert {span.status.status_code for span in named(exporter, "forward")} == {StatusCode.ERROR}
    assert len(named(exporter, "queue")) == 1


def test_without_a_destination_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert type(tracing_from_environment()) is Tracing
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        with monkeypatch.context() as one:
            one.setenv(name, value)
            assert type(tracing_from_environment()) is Tracing
    traced = tracing_from_environment()
    assert type(traced) is OpenTelemetry
    traced.close()


def test_an_exporter_that_is_not_installed_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nonesuch")
    assert type(tracing_from_environment()) is Tracing
    assert "no OpenTelemetry exporter nonesuch is installed" in caplog.text


def test_an_application_without_tracing_does_not_import_what_traces() -> None:
    probe = (
        "import sys\n"
        "from tests.conftest import create_app, fake_scorer, fake_settings\n"
        "create_app(fake_settings(), fake_scorer())\n"
        "assert 'opentelemetry.sdk' not in sys.modules\n"
        "assert 'reranker_serve.telemetry.otel' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


class Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_real_server_sends_what_it_has_before_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Collector.received = []
    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    try:
        with running(tmp_path, FAKE_SERVER, log_format="json") as server:
            server.wait_ready()
            assert httpx.post(f"{server.url}/rerank", json=GOOD, timeout=10).status_code == 200
            assert server.terminate() == 0
            output = server.output
    finally:
        collector.shutdown()
        collector.server_close()
    assert [path for path, _ in Collector.received] == ["/v1/traces"]
    sent = Collector.received[0][1]
    for word in (b"reranker-serve", b"rerank", b"tokenize", b"queue", b"forward"):
        assert word in sent
    assert '"trace_id": "' in output
