"""Pinecone's rerank API. https://docs.pinecone.io/reference/api/latest/inference/rerank

Its client presents the key as `Api-Key`, which other clients do as well, and always sends its version.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.documents import echo
from reranker_serve.api.errors import type_of
from reranker_serve.api.options import Truncate, extras
from reranker_serve.api.superset import EchoingRequest
from reranker_serve.api.superset import to_core as superset_to_core
from reranker_serve.errors import RequestError
from reranker_serve.types import RerankRequest, RerankResult


class Parameters(BaseModel):
    """Of the model's parameters, the one that applies here."""

    truncate: Truncate | None = None


class PineconeRequest(EchoingRequest):
    """Score documents against a query, Pinecone's fields."""

    parameters: Parameters | None = Field(None, description="its `truncate` counts as `truncate`")


def recognises(call: Call) -> bool:
    return "x-pinecone-api-version" in call.headers


def to_core(body: PineconeRequest) -> RerankRequest:
    asked = body.truncate or (body.parameters.truncate if body.parameters else None)
    return superset_to_core(body.model_copy(update={"truncate": asked}))


def from_core(result: RerankResult, body: PineconeRequest, reply: Reply) -> dict[str, Any]:
    data = []
    for ranked in result.ranking:
        row: dict[str, Any] = {"index": ranked.index, "score": ranked.score}
        if body.return_documents:
            row["document"] = echo(body.documents[ranked.index], body.rank_fields)
        data.append(row | extras(body, ranked))
    return {"model": result.model, "data": data, "usage": {"rerank_units": 1}}


def error(problem: RequestError, status: int) -> dict[str, Any]:
    message = str(problem)
    return {
        "error": {"code": type_of(status).removesuffix("_error").upper(), "message": message},
        "status": status,
        "message": message,
        "detail": message,
    }


DIALECT = Dialect(
    name="pinecone",
    vendor="Pinecone",
    summary="Rerank",
    paths=("/pinecone/rerank",),
    body=PineconeRequest,
    to_core=to_core,
    from_core=from_core,
    recognises=recognises,
    error=error,
)
