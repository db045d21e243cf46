"""One body and one reply that the clients of Cohere, Jina, vLLM, Xinference, LocalAI and others all know."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field

from reranker_serve.api.dialect import Reply
from reranker_serve.api.documents import Documents, Query, document_texts, echo
from reranker_serve.api.options import Options, Whole, core_request, extras
from reranker_serve.types import RerankRequest, RerankResult

# Cohere bills one search unit for a query with up to this many documents.
_DOCUMENTS_PER_UNIT = 100


class SupersetRequest(Options):
    """Score documents against a query."""

    query: Query = Field(description="what the documents should be relevant to")
    documents: Documents = Field(
        validation_alias=AliasChoices("documents", "docs"),
        description="strings, or objects with `text`, `content` or the fields named in `rank_fields`; or one string",
    )
    top_n: Whole | None = Field(None, ge=0, description="return only the best n; 0, or more than there are: all")
    rank_fields: list[str] | None = Field(None, description="fields of object documents that form the ranked text")
    return_documents: bool | None = Field(None, description="echo each document beside its score; false by default")


class EchoingRequest(SupersetRequest):
    """Score documents against a query; the documents come back unless the caller says otherwise."""

    return_documents: bool | None = Field(True, description="echo each document beside its score")


def to_core(body: SupersetRequest) -> RerankRequest:
    return core_request(body, body.query, document_texts(body.documents, body.rank_fields), body.top_n)


def from_core(result: RerankResult, body: SupersetRequest, reply: Reply) -> dict[str, Any]:
    return superset_reply(result, body, reply, "1")


def superset_reply(result: RerankResult, body: SupersetRequest, reply: Reply, api_version: str) -> dict[str, Any]:
    """`document` is an object or absent, never null or a string: strict clients refuse those."""
    tokens = result.usage.prompt_tokens
    results = []
    for ranked in result.ranking:
        row: dict[str, Any] = {"index": ranked.index, "relevance_score": ranked.score}
        if body.return_documents:
            row["document"] = echo(body.documents[ranked.index], body.rank_fields)
        results.append(row | extras(body, ranked))
    return {
        "id": reply.request_id,
        "object": "rerank",
        "created": reply.created,
        "model": result.model,
        "results": results,
        "usage": usage(result),
        "meta": {
            "api_version": {"version": api_version},
            "billed_units": {
                "search_units": -(-len(body.documents) // _DOCUMENTS_PER_UNIT),
                "input_tokens": tokens,
                "total_tokens": tokens,
            },
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
    }


def usage(result: RerankResult) -> dict[str, int]:
    tokens = result.usage.prompt_tokens
    return {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
