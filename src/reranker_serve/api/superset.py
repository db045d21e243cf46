"""One body and one reply that the clients of Cohere, Jina, vLLM, Xinference, LocalAI and others all know."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from reranker_serve.api.dialect import Reply
from reranker_serve.api.documents import Documents, Query, document_texts, echo
from reranker_serve.api.options import Number, Options, Whole, core_request, extras
from reranker_serve.places import SpanOptions
from reranker_serve.types import RerankRequest, RerankResult

# Cohere bills one search unit for a query with up to this many documents.
_DOCUMENTS_PER_UNIT = 100


class RelevantSpans(BaseModel):
    """Whether the sentences that make a document relevant come back, and which."""

    mode: Literal["enabled", "disabled"] = "enabled"
    threshold: Number | None = None
    max_spans: Whole | None = Field(None, ge=1)


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
    relevant_spans: RelevantSpans | None = Field(
        None,
        description='`{"mode": "enabled"}`: each result has the sentences that score `threshold` or more (0.1 when not'
        " given), best first, at most `max_spans`",
    )


class EchoingRequest(SupersetRequest):
    """Score documents against a query; the documents come back unless the caller says otherwise."""

    return_documents: bool | None = Field(True, description="echo each document beside its score")


def to_core(body: SupersetRequest) -> RerankRequest:
    core = core_request(body, body.query, document_texts(body.documents, body.rank_fields), body.top_n)
    asked = body.relevant_spans
    if asked is None or asked.mode == "disabled":
        return core
    return replace(core, spans=SpanOptions(asked.threshold, asked.max_spans))


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
                "search_units": search_units(len(body.documents)),
                "input_tokens": tokens,
                "total_tokens": tokens,
            },
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
    }


def search_units(documents: int) -> int:
    """What Cohere bills for a query with so many documents."""
    return -(-documents // _DOCUMENTS_PER_UNIT)


def usage(result: RerankResult) -> dict[str, int]:
    tokens, of_spans = result.usage.prompt_tokens, result.usage.span_tokens
    counts = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return counts if of_spans is None else counts | {"span_tokens": of_spans}
