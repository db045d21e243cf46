"""One 200 body that the clients of Cohere, Jina, vLLM, Xinference, LocalAI and others all accept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reranker_serve.api.body import Document, echo
from reranker_serve.api.dialects import Reply
from reranker_serve.types import RerankResult

# Cohere bills one search unit for a query with up to this many documents.
_DOCUMENTS_PER_UNIT = 100


def superset_reply(
    result: RerankResult,
    documents: Sequence[Document],
    rank_fields: Sequence[str] | None,
    return_documents: bool,
    reply: Reply,
    api_version: str,
) -> dict[str, Any]:
    """`document` is an object or absent, never null or a string: strict clients refuse those."""
    tokens = result.usage.prompt_tokens
    results = []
    for ranked in result.ranking:
        row: dict[str, Any] = {"index": ranked.index, "relevance_score": ranked.score}
        if return_documents:
            row["document"] = echo(documents[ranked.index], rank_fields)
        results.append(row)
    return {
        "id": reply.request_id,
        "object": "rerank",
        "created": reply.created,
        "model": result.model,
        "results": results,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": api_version},
            "billed_units": {
                "search_units": -(-len(documents) // _DOCUMENTS_PER_UNIT),
                "input_tokens": tokens,
                "total_tokens": tokens,
            },
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
    }
