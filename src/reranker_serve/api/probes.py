"""Probes and facts: /health, /live, /ready, /info, /metrics."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from reranker_serve import __version__
from reranker_serve.lifecycle import Lifecycle
from reranker_serve.service import Reranker
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics


def add_probe_routes(app: FastAPI, lifecycle: Lifecycle, settings: Settings, metrics: Metrics) -> None:
    """All routes that answer without scoring anything."""

    @app.head("/health", include_in_schema=False)
    @app.get("/ping", include_in_schema=False)
    @app.get("/health", tags=["Probes"], operation_id="health")
    async def health() -> Response:
        """200 when requests are answered, else 503 with the reason."""
        problem = lifecycle.problem()
        if problem is not None:
            return _unavailable(problem.state, problem.reason)
        scorer = lifecycle.serving().scorer
        return JSONResponse(
            {
                "status": "healthy",
                "model": scorer.info.name,
                "device": scorer.device,
                "version": __version__,
            }
        )

    @app.head("/live", include_in_schema=False)
    @app.get("/v1/health/live", include_in_schema=False)
    @app.get("/live", tags=["Probes"], operation_id="live")
    async def live() -> Response:
        """200 while the process can recover by itself; 503 when only a restart helps."""
        problem = lifecycle.problem()
        if problem is not None and problem.state in ("dead", "failed"):
            return _unavailable(problem.state, problem.reason)
        return JSONResponse({"status": "alive"})

    @app.head("/ready", include_in_schema=False)
    @app.get("/v1/health/ready", include_in_schema=False)
    @app.get("/ready", tags=["Probes"], operation_id="ready")
    async def ready() -> Response:
        """200 when requests are answered, 503 with the reason while loading, draining or dead."""
        problem = lifecycle.problem()
        if problem is not None:
            return _unavailable(problem.state, problem.reason)
        return JSONResponse({"status": "ready"})

    @app.get("/info", tags=["Models"], operation_id="info")
    async def info() -> dict[str, Any]:
        """What is served, how it is computed, and the limits."""
        return _info(lifecycle, settings)

    if not settings.enable_metrics:
        return

    @app.get("/metrics", tags=["Metrics"], operation_id="metrics")
    async def prometheus() -> Response:
        """Prometheus text format; with several workers, the sum of all."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _info(lifecycle: Lifecycle, settings: Settings) -> dict[str, Any]:
    reranker = lifecycle.serving()
    scorer = reranker.scorer
    return {
        "model": scorer.info.name,
        "revision": scorer.info.revision,
        "architecture": scorer.info.architecture,
        "family": scorer.family.name,
        "prompt": scorer.family.prompt,
        "score_scale": scorer.family.score_scale,
        "listwise": scorer.family.listwise,
        "takes_instruction": scorer.family.takes_instruction,
        "device": scorer.device,
        "lanes": [
            {"device": lane.device, "state": "lost" if lane.reason else "up", "reason": lane.reason}
            for lane in reranker.engine.lanes
        ],
        "dtype": scorer.backend.dtype,
        "precision_note": scorer.info.precision_note,
        "attention": scorer.backend.attention,
        "calibration": _calibration(reranker),
        "thresholds": {"min_score": settings.min_score, "min_probability": settings.min_probability},
        "limits": {
            "max_length": scorer.family.max_length_bounds[1],
            "max_documents": settings.max_documents,
            "max_body_bytes": settings.max_body_bytes,
            "max_queue_tokens": settings.max_queue_tokens,
            "max_queue_seconds": settings.max_queue_seconds,
            "batch_tokens": reranker.token_budget,
            "request_timeout_s": settings.request_timeout,
        },
        "version": __version__,
        **_tei_info(reranker, settings),
    }


def _calibration(reranker: Reranker) -> dict[str, Any] | None:
    """What probabilities rest on, but not the curve itself."""
    calibration = reranker.calibration
    if calibration is None:
        return None
    return {"method": calibration.curve.method, **calibration.model_dump(mode="json", exclude={"format", "curve"})}


def _tei_info(reranker: Reranker, settings: Settings) -> dict[str, Any]:
    """The keys of Text Embeddings Inference, which Dify's plugin and others read."""
    info, longest = reranker.scorer.info, reranker.scorer.family.max_length_bounds[1]
    return {
        "model_id": info.name,
        "model_sha": info.revision,
        "model_dtype": reranker.scorer.backend.dtype,
        "served_model_name": info.name,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": max(1, settings.max_queue_tokens // longest),  # full-length pairs, as TEI counts
        "max_input_length": longest,
        "max_batch_tokens": reranker.token_budget,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_documents,
        "auto_truncate": True,
        "tokenization_workers": reranker.tokenizer_threads,
        "sha": None,
        "docker_label": None,
    }


def _unavailable(state: str, reason: str) -> Response:
    return JSONResponse({"status": state, "reason": reason}, 503, {"Retry-After": "1"})
