"""Whether requests are traced; what does it, `otel.py`, is imported only if they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from reranker_serve.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_DESTINATIONS = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


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
