"""How OpenAPI shows a dialect: its vendor, its body's schema, and examples that were really sent.

The examples are files beside this one: `examples/<dialect>.json` holds requests and the reply
that the demo model gave to the first.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.errors import status_of
from reranker_serve.errors import InvalidRequest, Overloaded, RequestError, Unauthorized

_ERRORS: dict[str, RequestError] = {
    "The body is not right; `param` names the field": InvalidRequest("query is required", "query"),
    "No key, or a wrong one": Unauthorized("the API key is not valid"),
    "The queue is full; `Retry-After` tells for how many seconds": Overloaded("the server is overloaded", 1),
}


def examples_of(dialect: Dialect) -> dict[str, Any]:
    """`requests`, by what they show, and the `reply` to the first of them."""
    text = files("reranker_serve.api").joinpath("examples", f"{dialect.name}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def operation(dialect: Dialect) -> dict[str, Any]:
    """What FastAPI's `add_api_route` takes to describe a dialect's first path."""
    found = examples_of(dialect)
    examples = {name: {"summary": name, "value": value} for name, value in found["requests"].items()}
    also = "".join(f"\n\nAlso at `{path}`." for path in dialect.paths[1:])
    return {
        "summary": dialect.summary,
        "description": (dialect.body.__doc__ or "") + also,
        "tags": [dialect.vendor],
        "operation_id": dialect.name,
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": _inlined(dialect.body.model_json_schema()), "examples": examples}
                },
            }
        },
        "responses": _responses(dialect, found["reply"]),
    }


def _responses(dialect: Dialect, reply: Any) -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {200: _response("Scores, best first", reply)}
    for said, error in _ERRORS.items():
        status = status_of(error, dialect.statuses)
        responses[status] = _response(said, dialect.error(error, status))
    return responses


def _response(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without references: those of pydantic would point nowhere inside an OpenAPI document."""
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(definitions[part["$ref"].rsplit("/", 1)[-1]])
        return {name: resolve(value) for name, value in part.items()}

    resolved: dict[str, Any] = resolve(schema)
    return resolved
