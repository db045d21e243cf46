"""The one status table, and the error body that the clients of most APIs can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from reranker_serve import errors

Statuses = Literal["usual", "tei", "infinity"]


@dataclass(frozen=True, slots=True)
class _Row:
    """The status of an error, and what TEI and Infinity answer where they differ."""

    usual: int
    tei: int | None = None
    infinity: int | None = None


STATUS: dict[type[errors.RequestError], _Row] = {
    errors.InvalidRequest: _Row(400, tei=422, infinity=422),
    errors.MalformedBody: _Row(400),
    errors.NoDocuments: _Row(400, infinity=422),
    errors.TooManyDocuments: _Row(400, tei=422, infinity=422),
    errors.TooLong: _Row(400, tei=422, infinity=422),
    errors.Unauthorized: _Row(401),
    errors.UnknownModel: _Row(404),
    errors.UnknownRoute: _Row(404),
    errors.MethodNotAllowed: _Row(405),
    errors.SlowBody: _Row(408),
    errors.RequestTooLarge: _Row(413),
    errors.UnsupportedEncoding: _Row(415),
    errors.Overloaded: _Row(429),
    errors.RateLimited: _Row(429),
    errors.ClientGone: _Row(499),
    errors.InferenceFailed: _Row(500, tei=424),
    errors.NotReady: _Row(503),
    errors.NoMemory: _Row(503),
    errors.DeadlineExceeded: _Row(504),
}

_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    408: "timeout_error",
    413: "request_too_large_error",
    415: "unsupported_media_type_error",
    422: "invalid_request_error",
    424: "server_error",
    429: "overloaded_error",
    499: "client_closed_request",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}


def status_of(error: errors.RequestError, statuses: Statuses = "usual") -> int:
    row = STATUS[type(error)]
    own: int | None = getattr(row, statuses)
    return row.usual if own is None else own


def type_of(status: int) -> str:
    """The `type` of an error body in OpenAI's words."""
    return _TYPE[status]


def headers_of(error: errors.RequestError) -> dict[str, str]:
    """Headers that belong to an error, whatever the dialect."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, errors.UnsupportedEncoding):
        headers["Accept-Encoding"] = "gzip, deflate"  # RFC 7694
    if isinstance(error, errors.RequestTooLarge | errors.SlowBody | errors.NoMemory):
        headers["Connection"] = "close"  # the rest of the body is not read
    return headers


def superset_error(error: errors.RequestError, status: int) -> dict[str, Any]:
    """`error` as an object for OpenAI-style clients, `message` for Cohere's, `detail` for Jina's and Voyage's."""
    message = str(error)
    return {
        "error": {"message": message, "type": type_of(status), "param": error.param, "code": status},
        "message": message,
        "detail": message,
    }


def plain_error(error: errors.RequestError, status: int) -> dict[str, Any]:
    """As `superset_error`, for paths that Voyage's clients share: they stumble over an `error` that is an object."""
    message = str(error)
    return {
        "object": "error",
        "error": message,
        "message": message,
        "detail": message,
        "type": type_of(status),
        "param": error.param,
        "code": status,
    }
