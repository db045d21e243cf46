"""create_app: builds the application; importing this module does nothing and loads no torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from reranker_serve import __version__
from reranker_serve.api.body_limit import BodyLimit
from reranker_serve.api.browsers import CORS, BrowserHeaders
from reranker_serve.api.dialects.table import DIALECTS, DialectTable
from reranker_serve.api.middleware import Boundary, RequireKey
from reranker_serve.api.pages import add_pages
from reranker_serve.api.paths import ASSETS, DESCRIPTION
from reranker_serve.api.probes import add_probe_routes
from reranker_serve.api.rate_ledger import Ledger, OwnLedger
from reranker_serve.api.rate_limit import RateLimit
from reranker_serve.api.routes import add_rerank_routes
from reranker_serve.api.shared_ledger import SharedLedger
from reranker_serve.api.side import add_side_routes
from reranker_serve.api.stats import add_stats_route
from reranker_serve.api.unknown_route import unknown_route
from reranker_serve.api.web import add_web
from reranker_serve.calibration import Calibration, read_calibration
from reranker_serve.engine.admission import ByteBudget
from reranker_serve.errors import InvalidRequest, MethodNotAllowed
from reranker_serve.keys import KeyFile, Keys
from reranker_serve.lifecycle import DETACHED, Lifecycle, Process
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.record import Record
from reranker_serve.telemetry.setup import tracing_from_environment
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.telemetry.usage import Usage
from reranker_serve.types import Scorer

_DESCRIPTION = "Scores how relevant documents are to a query. Every rerank path takes JSON and understands every API."


def create_app(
    settings: Settings,
    scorer: Scorer | None = None,
    process: Process = DETACHED,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application for `settings`, which may end or be signalled as `process` says.

    With `scorer` it serves that; without, it loads the configured model after it started, and
    answers 503 until then. `tracing` is what the OTEL_ variables configure unless given.
    Raises `SettingsError` if the file of keys, the calibration, the file of usage or the store of limits
    cannot be used.
    """
    record = given_record(settings)
    ledger = given_ledger(settings, record)
    metrics, usage = Metrics(), Usage(time.monotonic(), keeper=record)
    tracing = tracing or tracing_from_environment()
    lifecycle = Lifecycle(settings, metrics, tracing, process, given_calibration(settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with lifecycle.running(scorer):
            yield
        await ledger.close()
        if record is not None:
            await asyncio.to_thread(record.close)
        await asyncio.to_thread(tracing.close)

    app = _application(settings.enable_docs, lifespan)
    dialects = DialectTable(DIALECTS)
    add_rerank_routes(app, dialects, lifecycle.serving)
    add_probe_routes(app, lifecycle, settings, metrics)
    add_side_routes(app, lifecycle, settings)
    if settings.enable_metrics:
        add_stats_route(app, lifecycle, settings, metrics, usage, record)
    if settings.enable_docs:
        add_pages(app, settings.needs_key)
    if settings.enable_page:
        add_web(app, settings.enable_docs)
    # Added innermost first.
    budget = ByteBudget(settings.max_buffered_bytes)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, seconds=settings.read_timeout, budget=budget)
    if settings.rates is not None or settings.api_key_file is not None:  # whose keys may have limits of their own
        app.add_middleware(RateLimit, rates=settings.rates, ledger=ledger)
    app.add_middleware(RequireKey, keys=accepted_keys(settings))
    app.add_middleware(
        Boundary,
        dialects=dialects,
        metrics=metrics,
        tracing=tracing,
        usage=usage,
        leaving=lambda: lifecycle.leaving,
    )
    # Beyond the boundary, so that errors have their headers, too.
    if settings.allowed_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.allowed_origins, **CORS)
    app.add_middleware(BrowserHeaders)
    return app


def accepted_keys(settings: Settings) -> Keys:
    """The keys of the settings and of their file. Raises `SettingsError` if the file cannot be used."""
    file = settings.api_key_file
    return Keys(settings.api_keys, KeyFile(file) if file else None)


def given_calibration(settings: Settings) -> Calibration | None:
    """What the settings' file holds. Raises `SettingsError` if it cannot be used."""
    return read_calibration(settings.calibration) if settings.calibration else None


def given_record(settings: Settings) -> Record | None:
    """What writes usage to the settings' file. Raises `SettingsError` if that can never be used."""
    return Record(settings.usage_file.expanduser()) if settings.usage_file else None


def given_ledger(settings: Settings, record: Record | None = None) -> Ledger:
    """Where what callers have had is counted. Raises `SettingsError` if that can never be used."""
    own = OwnLedger(settings.workers, record)
    return SharedLedger(settings.limits_url.get_secret_value(), own) if settings.limits_url else own


def _application(docs: bool, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    common: dict[str, Any] = {
        "title": "reranker-serve",
        "version": __version__,
        "description": _DESCRIPTION,
        "docs_url": None,
        "redoc_url": None,
        "redirect_slashes": False,  # paths come without one at their end: it would send callers in a circle
        # Relative to the description, as a proxy may take away a prefix and tell nobody.
        "servers": [{"url": "."}],
        "root_path_in_servers": False,
        "lifespan": lifespan,
        "exception_handlers": {HTTPException: _as_request_error},
    }
    if not docs:
        return FastAPI(openapi_url=None, **common)
    return FastAPIOffline(openapi_url=DESCRIPTION, static_url=ASSETS, **common)


async def _as_request_error(request: Request, error: Exception) -> NoReturn:
    """What the router refuses becomes one of our errors; the boundary renders it."""
    assert isinstance(error, HTTPException)
    path = request.scope["state"]["exchange"].path
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        raise MethodNotAllowed(f"{path} takes {allow}, not {request.method}", allow)
    if error.status_code == 404:
        raise unknown_route(path)
    raise InvalidRequest(str(error.detail))
