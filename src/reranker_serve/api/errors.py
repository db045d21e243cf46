"""The one status table, and the error body that every client of the superset reply can read."""

from __future__ import annotations

from typing import Any

from reranker_serve import errors

STATUS: dict[type[errors.RequestError], int] = {
    errors.InvalidRequest: 400,
    errors.Unauthorized: 401,
    errors.UnknownModel: 404,
    errors.UnknownRoute: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTooLarge: 413,
    errors.Overloaded: 429,
    errors.ClientGone: 499,
    errors.InferenceFailed: 500,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
}

_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    413: "request_too_large_error",
    429: "overloaded_error",
    499: "client_closed_request",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}


def status_of(error: errors.RequestError) -> int:
    return STATUS[type(error)]


def headers_of(error: errors.RequestError) -> dict[str, str]:
    """Headers that belong to an error, whatever the dialect."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, errors.RequestTooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    return headers


def superset_error(error: errors.RequestError) -> dict[str, Any]:
    """`error` as an object for OpenAI-style clients, `message` for Cohere's, `detail` for Jina's and Voyage's."""
    status, message = status_of(error), str(error)
    return {
        "error": {"message": message, "type": _TYPE[status], "param": error.param, "code": status},
        "message": message,
        "detail": message,
    }
