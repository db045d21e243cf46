"""The rerank routes, made from the dialect table: one endpoint, on every dialect's paths."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from reranker_serve.api.body import parse_object, read, validate
from reranker_serve.api.description import operation
from reranker_serve.api.dialect import Call, Dialect, Reply, check_lists
from reranker_serve.api.dialects.table import SHOWN, DialectTable
from reranker_serve.api.middleware import Exchange
from reranker_serve.api.paths import is_odd
from reranker_serve.api.superset import search_units
from reranker_serve.api.unknown_route import unknown_route
from reranker_serve.errors import ClientGone, InvalidRequest
from reranker_serve.service import Reranker
from reranker_serve.telemetry.usage import Amount
from reranker_serve.types import RerankRequest, RerankResult, ScoreRequest

# Above this, JSON is read and written on a thread, so that other callers do not wait for it.
_LARGE_BODY_BYTES = 256 * 1024

Result = TypeVar("Result")
Core = RerankRequest | ScoreRequest
Endpoint = Callable[[Request], Awaitable[Response]]


class RerankCalls:
    """Answers what is posted to a rerank path; everything else that may be a path of ours goes on to the router.

    Around each route FastAPI has layers and pattern matching that were 8 % of a request without a model.
    """

    def __init__(self, app: ASGIApp, endpoint: Endpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange: Exchange = scope["state"]["exchange"]
            if is_odd(exchange.path):
                raise unknown_route(exchange.path)
            if exchange.dialect:
                response = await self._endpoint(Request(scope, receive, send))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def add_rerank_routes(app: FastAPI, table: DialectTable, reranker: Callable[[], Reranker]) -> None:
    """`reranker()` gives the loaded model or raises `NotReady`. Call it before any middleware is added."""
    endpoint = _endpoint(table, reranker)
    app.add_middleware(RerankCalls, endpoint=endpoint)
    # For the description, which has them in this order, and to refuse other methods.
    for dialect in SHOWN:
        for path in dialect.paths:
            documented = path == dialect.paths[0]
            app.router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                response_model=None,
                response_class=Response,
                include_in_schema=documented,
                **(operation(dialect) if documented else {}),
            )


def _endpoint(table: DialectTable, reranker: Callable[[], Reranker]) -> Endpoint:
    async def rerank(request: Request) -> Response:
        exchange: Exchange = request.scope["state"]["exchange"]
        raw = await read(request)
        size = len(raw)
        data = await _off_loop(size, lambda: parse_object(raw))
        call = Call.of(exchange.path, request.headers.keys(), data)
        dialect = exchange.dialect = table.tell(call)
        assert dialect is not None, "a rerank path without a dialect"
        check_lists(call)
        body, core = await _off_loop(size, lambda: _understand(dialect, data))
        core = _hurried(core, request.headers)
        exchange.documents = _documents(core)
        serving = reranker()
        result = await _until_disconnect(request.receive, _answer(serving, core))
        exchange.model, exchange.tokens, exchange.timings = result.model, result.usage.prompt_tokens, result.timings
        units = sum(search_units(len(part.documents)) for part in _parts(core))
        exchange.amount = Amount(1, result.scored, exchange.tokens, units)
        reply = Reply(exchange.id, int(time.time()))
        content = await _off_loop(size, lambda: _json(_content(dialect, result, body, reply)))
        headers = _compute_headers(serving, result, core)
        if _parts(core)[0].deadline is not None:
            headers["X-Rerank-Scored"] = f"{result.scored}/{result.documents}"
        if result.left_out is not None:
            headers["X-Rerank-Left-Out"] = str(result.left_out)
        return Response(content, media_type="application/json", headers=headers)

    return rerank


def _understand(dialect: Dialect, data: dict[str, Any]) -> tuple[Any, Core]:
    body = validate(data, dialect.body)
    return body, dialect.to_core(body)


def _content(dialect: Dialect, result: RerankResult, body: Any, reply: Reply) -> Any:
    """The reply in the dialect's shape. If the deadline came first, most shapes have room for what is scored only."""
    if result.partial and not dialect.shows_unscored:
        scored = tuple(ranked for ranked in result.ranking if ranked.score is not None)
        result = dataclasses.replace(result, ranking=scored)
    content = dialect.from_core(result, body, reply)
    if not isinstance(content, dict):
        return content
    left_out = {} if result.left_out is None else {"left_out": result.left_out}
    return content | left_out | ({"partial": True} if result.partial else {})


def _hurried(core: Core, headers: Mapping[str, str]) -> Core:
    """With what the caller's headers say of time, where that is shorter than the body's."""
    timeout = _header_number(headers, "X-Request-Timeout")
    milliseconds = _header_number(headers, "X-Deadline-Ms")
    deadline = None if milliseconds is None else milliseconds / 1e3
    if timeout is deadline is None:
        return core
    parts = tuple(
        dataclasses.replace(part, timeout=_shorter(part.timeout, timeout), deadline=_shorter(part.deadline, deadline))
        for part in _parts(core)
    )
    return dataclasses.replace(core, requests=parts) if isinstance(core, ScoreRequest) else parts[0]


def _header_number(headers: Mapping[str, str], name: str) -> float | None:
    if name not in headers:
        return None
    try:
        number = float(headers[name])
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidRequest(f"{name} must be a number above 0, and finite", name)
    return number


def _shorter(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


def _answer(reranker: Reranker, core: Core) -> Coroutine[Any, Any, RerankResult]:
    return reranker.score(core) if isinstance(core, ScoreRequest) else reranker.rerank(core)


def _parts(core: Core) -> tuple[RerankRequest, ...]:
    return core.requests if isinstance(core, ScoreRequest) else (core,)


def _documents(core: Core) -> int:
    return sum(len(part.documents) for part in _parts(core))


def _compute_headers(reranker: Reranker, result: RerankResult, core: Core) -> dict[str, str]:
    """The headers of Text Embeddings Inference: whole milliseconds, characters and tokens."""
    timings = result.timings
    characters = sum(len(part.query) + sum(map(len, part.documents)) for part in _parts(core))
    numbers = {
        "x-compute-time": timings.tokenize_ms + timings.inference_ms,
        "x-compute-characters": characters,
        "x-compute-tokens": result.usage.prompt_tokens,
        "x-total-time": timings.total_ms,
        "x-tokenization-time": timings.tokenize_ms,
        "x-queue-time": timings.queue_ms,
        "x-inference-time": timings.inference_ms,
    }
    kind = "cpu" if reranker.scorer.device == "cpu" else "gpu+optimized"
    return {"x-compute-type": kind} | {name: str(round(number)) for name, number in numbers.items()}


async def _off_loop(size: int, work: Callable[[], Result]) -> Result:
    return work() if size < _LARGE_BODY_BYTES else await asyncio.to_thread(work)


async def _until_disconnect(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, but cancel it when the client goes away: nobody would read the answer."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    gone.add_done_callback(lambda _: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if gone.done() and not gone.cancelled():
            raise ClientGone("the client went away") from None
        raise
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(content: Any) -> bytes:
    return to_json(content)
