"""Log configuration; called by the entry points, never on import."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)-8s %(message)s"


def configure_logging(level: str) -> None:
    """Log to standard error: this package at `level`, uvicorn and others from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("reranker_serve").setLevel(level)
    logging.captureWarnings(True)
