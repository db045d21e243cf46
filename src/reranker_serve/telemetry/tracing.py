"""Whether requests are traced; what does it, `otel.py`, is imported only if they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from reranker_serve.types import Backend, EncodedItem

logger = logging.getLogger(__name__)

_DESTINATIONS = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """The spans of requests and forward passes; this one makes none and costs nothing."""

    def request(self, headers: Mapping[str, str]) -> AbstractContextManager[str]:
        """A rerank request that came with `headers`; gives its trace id in hex, or nothing."""
        return nullcontext("")

    def describe(self, fields: Mapping[str, str | int | float]) -> None:
        """What is known of the present request when it ends."""

    def tokenize(self) -> AbstractContextManager[None]:
        """Tokenizing for the present request."""
        return nullcontext()

    def queue(self, items: Iterable[EncodedItem]) -> AbstractContextManager[None]:
        """The present request waits for `items`; the span ends when the first of them is computed."""
        return nullcontext()

    def traced(self, backend: Backend) -> Backend:
        """`backend` with a span for each forward pass."""
        return backend

    def close(self) -> None:
        """Send what is not sent yet. Blocks."""


def tracing_from_environment() -> Tracing:
    """Tracing as the standard OTEL_ variables configure it.

    Without a destination (`OTEL_TRACES_EXPORTER` or an OTLP endpoint), nothing is imported.
    """
    environ = os.environ
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporters == "none"
    if disabled or not any(environ.get(name, "").strip() for name in _DESTINATIONS):
        return Tracing()
    try:
        from reranker_serve.telemetry.otel import OpenTelemetry, provider

        return OpenTelemetry(provider(exporters or "otlp", _protocol(environ)))
    except (ImportError, LookupError) as error:
        # Clusters set these variables for every pod: a server without the packages must still serve.
        logger.warning("requests are not traced: %s; install the extra `tracing`, or unset OTEL_...", error)
        return Tracing()


def _protocol(environ: Mapping[str, str]) -> str:
    general = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "").strip() or general or "http/protobuf"
