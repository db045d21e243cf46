"""create_app: builds the application; importing this module does nothing and loads no torch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request

from reranker_serve import __version__
from reranker_serve.api.dialects import DialectTable, all_dialects
from reranker_serve.api.middleware import BodyLimit, Boundary, RequireKey
from reranker_serve.api.probes import add_probe_routes
from reranker_serve.api.routes import add_rerank_routes
from reranker_serve.api.side import add_side_routes
from reranker_serve.errors import InvalidRequest, MethodNotAllowed, UnknownRoute
from reranker_serve.lifecycle import Lifecycle
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing, tracing_from_environment
from reranker_serve.types import Scorer

_DESCRIPTION = "Scores how relevant documents are to a query. Every rerank path takes and gives JSON."


def _nothing() -> None:
    return None


def create_app(
    settings: Settings,
    scorer: Scorer | None = None,
    on_failure: Callable[[], None] = _nothing,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application for `settings`.

    With `scorer` it serves that; without, it loads the configured model after it started, and
    answers 503 until then. `on_failure` is called, on the loading thread, when that fails.
    `tracing` is what the OTEL_ variables configure unless given.
    """
    metrics = Metrics()
    tracing = tracing or tracing_from_environment()
    lifecycle = Lifecycle(settings, metrics, tracing, on_failure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lifecycle.start(scorer)
        yield
        await lifecycle.drain()
        await asyncio.to_thread(tracing.close)

    app = FastAPIOffline(
        title="reranker-serve",
        version=__version__,
        description=_DESCRIPTION,
        docs_url="/docs",
        redoc_url=None,
        static_url="/docs/assets",
        lifespan=lifespan,
        exception_handlers={HTTPException: _as_request_error},
    )
    dialects = DialectTable(all_dialects())
    add_rerank_routes(app, dialects, lifecycle.serving)
    add_probe_routes(app, lifecycle, settings, metrics)
    add_side_routes(app, lifecycle, settings)
    # Added innermost first.
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(RequireKey, keys=settings.api_keys)
    app.add_middleware(Boundary, dialects=dialects, metrics=metrics, tracing=tracing)
    return app


async def _as_request_error(request: Request, error: Exception) -> NoReturn:
    """What the router refuses becomes one of our errors; the boundary renders it."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        raise MethodNotAllowed(f"{path} takes {allow}, not {request.method}", allow)
    if error.status_code == 404:
        raise UnknownRoute(f"there is no {path} here: see /docs")
    raise InvalidRequest(str(error.detail))
