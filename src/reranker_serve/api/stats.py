"""`/stats`: what is served, how fast, and who had how much of it: one small object, for a page that keeps asking.

All of it is this process's alone; `/metrics` has the sum of several workers.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fastapi import FastAPI

from reranker_serve.api.paths import STATS
from reranker_serve.lifecycle import Lifecycle
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics, counted
from reranker_serve.telemetry.usage import Usage


def add_stats_route(app: FastAPI, lifecycle: Lifecycle, settings: Settings, metrics: Metrics, usage: Usage) -> None:
    """`GET /stats`. `usage` is told of answered requests in time of `time.monotonic`."""
    prices = _prices()

    @app.get(STATS, tags=["Metrics"], operation_id="stats")
    async def stats() -> dict[str, Any]:
        """What is served, the speed of the last minute, and what each key has had; of the process that answers."""
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
            "prices": prices,
        }


def _prices() -> dict[str, Any]:
    """What others ask for reranking: `price_usd` for `per` of a key's `unit`, as read at `source` on `date`."""
    text = files("reranker_serve.api").joinpath("prices.json").read_text(encoding="utf-8")
    prices: dict[str, Any] = json.loads(text)
    return prices


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)
