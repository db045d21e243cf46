"""Log configuration; called by the entry points, never on import."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_FORMAT = "%(asctime)s %(levelname)-8s %(message)s"
# The attribute of a log record that holds its fields; pass them as `extra={FIELDS: {...}}`.
FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the record's fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str, style: str = "text") -> None:
    """Log to standard error as `text` or `json`: this package at `level`, uvicorn and others from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("reranker_serve").setLevel(level)
    logging.captureWarnings(True)
