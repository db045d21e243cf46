"""Spans with OpenTelemetry: a request's `rerank`, its `tokenize` and `queue`, and each batch's `forward`.

A forward pass serves several requests: it links all of them, and is a child of the first, so
that whether it is kept follows from whether the request is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import EncodedItem, count_tokens

_NAME = "reranker-serve"
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


class _Waiting:
    """A request whose items are in the engine: its span, and that of its time in the queue."""

    def __init__(self, request: Span, queue: Span) -> None:
        self.request = request
        self._queue = queue

    def begin(self) -> None:
        """The first forward pass that serves it begins, or it is given up."""
        if self._queue.is_recording():
            self._queue.end()


class OpenTelemetry(Tracing):
    """Makes spans with the SDK's `provider`, which it owns."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_NAME)
        # By the identity of the items: what the engine batches are these very objects.
        self._waiting: dict[int, _Waiting] = {}

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[str]:
        with self._tracer.start_as_current_span("rerank", extract(headers), SpanKind.SERVER) as span:
            yield trace.format_trace_id(span.get_span_context().trace_id)

    def describe(self, fields: Mapping[str, str | int | float]) -> None:
        span = trace.get_current_span()
        span.set_attributes({f"reranker.{name}": value for name, value in fields.items()})
        if int(fields.get("status", 0)) >= 500:
            span.set_status(StatusCode.ERROR, str(fields.get("error", "")))

    @contextmanager
    def tokenize(self) -> Iterator[None]:
        with self._tracer.start_as_current_span("tokenize"):
            yield

    @contextmanager
    def queue(self, items: Iterable[EncodedItem]) -> Iterator[None]:
        request = trace.get_current_span()
        if not request.is_recording():
            yield
            return
        waiting = _Waiting(request, self._tracer.start_span("queue"))
        keys = [id(item) for item in items]
        self._waiting.update(dict.fromkeys(keys, waiting))
        try:
            yield
        finally:
            for key in keys:
                self._waiting.pop(key, None)
            waiting.begin()

    def forward(self, items: Sequence[EncodedItem]) -> Callable[[str | None], None]:
        found = (self._waiting.get(id(item)) for item in items)
        served = list(dict.fromkeys(waiting for waiting in found if waiting is not None))
        if not served:
            return super().forward(items)
        for waiting in served:
            waiting.begin()
        # Not the current span: on a GPU the next pass begins before this one is over.
        span = self._tracer.start_span(
            "forward",
            trace.set_span_in_context(served[0].request),
            links=[Link(waiting.request.get_span_context()) for waiting in served],
            attributes={"reranker.items": len(items), "reranker.tokens": count_tokens(items)},
        )

        def over(failure: str | None) -> None:
            if failure:
                span.set_status(StatusCode.ERROR, failure)
            span.end()

        return over

    def close(self) -> None:
        self._provider.shutdown()


def provider(exporters: str, protocol: str) -> TracerProvider:
    """A provider for the comma-separated `exporters`; sampler, limits and batching come from OTEL_ variables.

    Raises `LookupError` for an exporter that is not installed, `ImportError` if it lacks a part.
    """
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _NAME}))
    made = TracerProvider(resource=resource)
    for exporter in exporters.split(","):
        name = exporter.strip()
        name = _OTLP.get(protocol, protocol) if name == "otlp" else name
        found = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
        if not found:
            raise LookupError(f"no OpenTelemetry exporter {name} is installed")
        made.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return made
