"""`/stats`: what is served, how fast, and who had how much of it: one small object, for a page that keeps asking.

All of it is this process's alone, but for what the file of usage has; `/metrics` has the sum of several workers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query

from reranker_serve.api.paths import STATS
from reranker_serve.errors import InvalidRequest
from reranker_serve.lifecycle import Lifecycle
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics, counted
from reranker_serve.telemetry.record import Record
from reranker_serve.telemetry.usage import Usage
from reranker_serve.telemetry.usage_file import COLUMNS, parse_columns, parse_day, report, utc_day

logger = logging.getLogger(__name__)

_ALL = ",".join(COLUMNS)
Since = Annotated[str | None, Query(description="the first day of `usage`, in UTC: `2026-11-01`")]
By = Annotated[str, Query(description="what each row of `usage` is of: some of `day`, `key` and `model`, with commas")]


def add_stats_route(
    app: FastAPI, lifecycle: Lifecycle, settings: Settings, metrics: Metrics, usage: Usage, record: Record | None
) -> None:
    """`GET /stats`. `usage` is told of answered requests in time of `time.monotonic`; `record` keeps them, if given."""
    prices = _prices()

    @app.get(STATS, tags=["Metrics"], operation_id="stats")
    async def stats(since: Since = None, by: By = _ALL) -> dict[str, Any]:
        """What is served, the speed of the last minute, and what each key has had; of the process that answers.

        With `since`, a day in UTC, `usage` has what the file of usage says since then, of all processes that write it.
        """
        kept = await _kept(record, since, by) if since is not None else None
        reranker, now = lifecycle.serving(), time.monotonic()
        lately, scorer = usage.lately(now), reranker.scorer
        return {
            "model": scorer.info.name,
            "device": scorer.device,
            "precision": scorer.backend.dtype,
            "attention": scorer.backend.attention,
            "queue_seconds": round(reranker.engine.queued_seconds, 3),
            "requests_per_second": round(lately.requests_per_second, 3),
            "pairs_per_second": round(lately.pairs_per_second, 3),
            "latency_ms": {"p50": _milliseconds(lately.p50), "p95": _milliseconds(lately.p95)},
            "cache": {"hits": counted(metrics.cache_hits), "misses": counted(metrics.cache_misses)},
            "uptime_seconds": round(now - usage.began, 1),
            "workers": settings.workers,
            "keys": [{"name": name} | asdict(amount) for name, amount in usage.callers.items()],
            "usage": kept,
            "prices": prices,
        }


async def _kept(record: Record | None, since: str, by: str) -> list[dict[str, Any]] | None:
    """Rows of the file of usage; None if there is none, or it cannot be read now. Raises `InvalidRequest`."""
    try:
        first, columns = parse_day(since), parse_columns(by)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if record is None:
        return None
    try:
        return await asyncio.to_thread(report, record.path, first, utc_day(time.time()), columns)
    except sqlite3.Error as error:
        logger.warning("usage cannot be read from %s: %s", record.path, error)
        return None


def _prices() -> dict[str, Any]:
    """What others ask for reranking: `price_usd` for `per` of a key's `unit`, as read at `source` on `date`."""
    text = files("reranker_serve.api").joinpath("prices.json").read_text(encoding="utf-8")
    prices: dict[str, Any] = json.loads(text)
    return prices


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)
