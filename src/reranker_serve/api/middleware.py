"""Pure ASGI middleware: the error boundary with request id and access log, the key."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker_serve.api.auth import check_key
from reranker_serve.api.dialect import Call, Dialect
from reranker_serve.api.dialects.table import DialectTable
from reranker_serve.api.errors import headers_of, status_of, superset_error
from reranker_serve.api.paths import asks_for_page, is_open, is_polled, settle_path
from reranker_serve.errors import ClientGone, InferenceFailed, NotReady, RequestError
from reranker_serve.keys import Key, Keys
from reranker_serve.telemetry.logs import FIELDS
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.telemetry.usage import Amount, Usage
from reranker_serve.types import Timings

logger = logging.getLogger("reranker_serve.access")

Field = str | int | float

_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class Exchange:
    """What is known of one request when its access line is written; lives in `scope["state"]`.

    `path` is as our routes name it, whatever prefix came before it. `headers` go out with its reply, whatever that is.
    """

    id: str
    path: str
    dialect: Dialect | None = None
    body_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    model: str = ""
    amount: Amount | None = None
    status: int = 0
    error: str = ""
    timings: Timings | None = None
    trace_id: str = ""
    key: Key | None = None
    headers: Mapping[str, str] | None = None


class Boundary:
    """The outermost layer: nothing that happens inside leaves it without a reply, an id and a log line."""

    def __init__(
        self,
        app: ASGIApp,
        dialects: DialectTable,
        metrics: Metrics,
        tracing: Tracing,
        usage: Usage,
        leaving: Callable[[], bool] = bool,
    ) -> None:
        self._app = app
        self._dialects = dialects
        self._metrics = metrics
        self._tracing = tracing
        self._usage = usage
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = Headers(scope=scope)
        exchange = Exchange(_request_id(headers), settle_path(scope))
        scope.setdefault("state", {})["exchange"] = exchange
        if scope["method"] == "POST":
            # As far as it can be told before the body is read.
            exchange.dialect = self._dialects.tell(Call.of(exchange.path, headers.keys(), {}))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = headers["request-id"] = exchange.id  # Voyage's client reads the second
                headers["X-Response-Time-Ms"] = f"{(time.perf_counter() - start) * 1e3:.1f}"
                if exchange.headers:
                    headers.update(exchange.headers)
                if self._leaving():
                    headers["Connection"] = "close"  # the caller's next request goes elsewhere
            await send(message)

        # Probes and the like would only hide the requests among the traces.
        with self._tracing.request(headers) if exchange.dialect else nullcontext("") as exchange.trace_id:
            try:
                await self._app(scope, receive, send_with_id)
            except RequestError as error:
                await self._reply(error, scope, receive, send_with_id)
            except asyncio.CancelledError:  # only a shutdown that ran out of time cancels a request from outside
                stopping = NotReady("the server is shutting down, and had no time left for this request", retry_after=5)
                await self._reply(stopping, scope, receive, send_with_id)
            except Exception as error:  # the last boundary: a bug becomes one clear 500
                logger.error("request %s: %s: %s", exchange.id, type(error).__name__, error, exc_info=error)
                failure = InferenceFailed(f"internal error; the server's log has it under request id {exchange.id}")
                await self._reply(failure, scope, receive, send_with_id)
            finally:
                self._account(scope, exchange, time.perf_counter() - start)

    async def _reply(self, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["state"]["exchange"]
        exchange.error = type(error).__name__
        if exchange.status:
            return  # the reply is on its way already; the connection's end tells the rest
        if isinstance(error, ClientGone):
            exchange.status = status_of(error)
            return
        dialect = exchange.dialect
        status = status_of(error, dialect.statuses if dialect else "usual")
        body = (dialect.error if dialect else superset_error)(error, status)
        await JSONResponse(body, status, headers_of(error))(scope, receive, send)

    def _account(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        dialect = exchange.dialect.name if exchange.dialect else "-"
        if exchange.dialect:
            self._metrics.requests.labels(dialect, str(exchange.status)).inc()
            self._metrics.request_seconds.observe(seconds)
        if exchange.amount and exchange.status < 400:
            caller = exchange.key.label if exchange.key else None
            self._usage.count(caller, exchange.model, seconds, exchange.amount, time.monotonic())
        if exchange.error:
            self._metrics.errors.labels(exchange.error).inc()
        fields = _fields(scope, exchange, seconds)
        self._tracing.describe(fields)
        level = logging.DEBUG if is_polled(exchange.path) else logging.INFO
        logger.log(level, "%s", _line(fields), extra={FIELDS: fields})


class RequireKey:
    """Everything but probes and pages needs a key, if there are keys."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._keys.needed and scope["type"] == "http":
            exchange: Exchange = scope["state"]["exchange"]
            if not is_open(exchange.path) and not asks_for_page(scope, exchange.path):
                exchange.key = check_key(scope["headers"], self._keys)
        await self._app(scope, receive, send)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _SAFE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


def _fields(scope: Scope, exchange: Exchange, seconds: float) -> dict[str, Field]:
    """What the access line says; a field that does not apply is left out."""
    fields: dict[str, Field] = {
        "method": scope["method"],
        "path": quote(exchange.path),  # it came decoded: a line break in it must not begin a line of the log
        "status": exchange.status,
        "total_ms": round(seconds * 1e3, 1),
        "dialect": exchange.dialect.name if exchange.dialect else "-",
    }
    if exchange.dialect:
        fields |= {"documents": exchange.documents, "tokens": exchange.tokens}
    if exchange.timings:
        queue, inference = exchange.timings.queue_ms, exchange.timings.inference_ms
        fields |= {"queue_ms": round(queue, 1), "inference_ms": round(inference, 1)}
    key = exchange.key.name if exchange.key else None
    optional = {"error": exchange.error, "key": key, "trace_id": exchange.trace_id}
    return fields | {name: value for name, value in optional.items() if value} | {"id": exchange.id}


def _line(fields: Mapping[str, Field]) -> str:
    """`POST /rerank 200 21.5ms dialect=native documents=2 ... id=...`"""
    method, path, status, total, *others = fields.items()
    return f"{method[1]} {path[1]} {status[1]} {total[1]}ms " + " ".join(f"{name}={value}" for name, value in others)
