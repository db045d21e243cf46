"""Log configuration; called by the entry points, never on import."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)-8s %(message)s"


class _OneLine(logging.Formatter):
    """Tracebacks only at DEBUG: at other levels a line says it all."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and not logging.getLogger("reranker_serve").isEnabledFor(logging.DEBUG):
            record = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        return super().format(record)


def configure_logging(level: str) -> None:
    """Log to standard error: this package at `level`, uvicorn and others from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("reranker_serve").setLevel(level)
    logging.captureWarnings(True)
