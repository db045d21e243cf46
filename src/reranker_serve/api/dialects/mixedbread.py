"""Mixedbread's rerank API: `input` instead of documents. https://www.mixedbread.com/api-reference"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.documents import Documents, Query, document_texts
from reranker_serve.api.errors import type_of
from reranker_serve.api.options import Options, Whole, core_request, extras
from reranker_serve.api.superset import usage
from reranker_serve.errors import RequestError
from reranker_serve.types import RerankRequest, RerankResult


class MixedbreadRequest(Options):
    """Score inputs against a query, Mixedbread's fields."""

    query: Query = Field(description="what the inputs should be relevant to")
    input: Documents = Field(description="strings, or objects with `text` or the fields named in `rank_fields`")
    top_k: Whole | None = Field(None, ge=0, description="return only the best k; 0, or more than there are: all")
    rank_fields: list[str] | None = Field(None, description="fields of object inputs that form the ranked text")
    return_input: bool | None = Field(None, description="echo each input as it came; false by default")


def recognises(call: Call) -> bool:
    return "input" in call.given and not call.documents


def to_core(body: MixedbreadRequest) -> RerankRequest:
    return core_request(body, body.query, document_texts(body.input, body.rank_fields), body.top_k)


def from_core(result: RerankResult, body: MixedbreadRequest, reply: Reply) -> dict[str, Any]:
    data = []
    for ranked in result.ranking:
        row: dict[str, Any] = {"index": ranked.index, "score": ranked.score, "object": "rank_result"}
        if body.return_input:
            row["input"] = body.input[ranked.index]
        data.append(row | extras(body, ranked))
    return {
        "object": "list",
        "model": result.model,
        "data": data,
        "usage": usage(result),
        "top_k": body.top_k or len(body.input),
        "return_input": bool(body.return_input),
    }


def error(problem: RequestError, status: int) -> dict[str, Any]:
    message = str(problem)
    return {
        "type": type_of(status),
        "url": "/docs",
        "message": message,
        "details": {"param": problem.param},
        "detail": message,
    }


DIALECT = Dialect(
    name="mixedbread",
    vendor="Mixedbread",
    summary="Reranking",
    paths=("/v1/reranking", "/mixedbread/v1/reranking"),
    body=MixedbreadRequest,
    to_core=to_core,
    from_core=from_core,
    list_field="input",
    recognises=recognises,
    ignored=("rewrite_query",),
    error=error,
)
