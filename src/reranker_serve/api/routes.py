"""The rerank routes, made from the dialect table."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from reranker_serve.api.body import parse
from reranker_serve.api.dialects import Dialect, Reply
from reranker_serve.api.middleware import Exchange
from reranker_serve.errors import ClientGone
from reranker_serve.service import Reranker

# Above this, JSON is read and written on a thread, so that other callers do not wait for it.
_LARGE_BODY_BYTES = 256 * 1024

Result = TypeVar("Result")


def add_rerank_routes(app: FastAPI, dialects: tuple[Dialect, ...], reranker: Callable[[], Reranker]) -> None:
    """`reranker()` gives the loaded model or raises `NotReady`."""
    for dialect in dialects:
        for path in dialect.paths:
            app.add_api_route(
                path,
                _endpoint(dialect, reranker),
                methods=["POST"],
                summary=dialect.summary,
                tags=["rerank"],
                response_model=None,
                response_class=Response,
                operation_id=f"{dialect.name}{path.replace('/', '_')}",
                openapi_extra=_documentation(dialect),
                responses={200: {"content": {"application/json": {"example": dialect.reply_example}}}},
            )


def _endpoint(dialect: Dialect, reranker: Callable[[], Reranker]) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def rerank(request: Request) -> Response:
        exchange: Exchange = request.scope["state"]["exchange"]
        try:
            raw = await request.body()
        except ClientDisconnect:
            raise ClientGone("the client went away") from None
        size = len(raw)
        body = await _off_loop(size, lambda: parse(raw, dialect.body))
        core = dialect.to_core(body)
        exchange.documents = len(core.documents)
        result = await _until_disconnect(request.receive, reranker().rerank(core))
        exchange.tokens = result.usage.prompt_tokens
        reply = Reply(exchange.id, int(time.time()))
        content = await _off_loop(size, lambda: _json(dialect.from_core(result, body, reply)))
        return Response(content, media_type="application/json")

    return rerank


async def _off_loop(size: int, work: Callable[[], Result]) -> Result:
    return work() if size < _LARGE_BODY_BYTES else await asyncio.to_thread(work)


async def _until_disconnect(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, but cancel it when the client goes away: nobody would read the answer."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client went away")
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _documentation(dialect: Dialect) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": dialect.body.model_json_schema(), "examples": dialect.examples}},
        }
    }
