"""Jina's rerank API under `/api/v1/rerank`; on `/v1/rerank` Cohere's row answers Jina's clients as well.

https://jina.ai/reranker. Documents come back unless the caller says otherwise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import Field

from reranker_serve.api import cohere
from reranker_serve.api.dialects import Dialect, Reply
from reranker_serve.api.superset import superset_reply
from reranker_serve.types import RerankResult


class JinaRequest(cohere.CohereRequest):
    """Score documents against a query, Jina's fields."""

    return_documents: bool | None = Field(True, description="Echo each document beside its score.")


def from_core(result: RerankResult, body: JinaRequest, reply: Reply) -> dict[str, Any]:
    echoed = body.return_documents is not False
    return superset_reply(result, body.documents, body.rank_fields, echoed, reply, "1")


_TEXTS = [
    "The stock market fell sharply on Monday.",
    "Photosynthesis turns sunlight, water and carbon dioxide into sugar inside the leaves.",
]

DIALECT: Dialect = dataclasses.replace(
    cohere.V1,
    name="jina",
    summary="Rerank (Jina)",
    paths=("/api/v1/rerank",),
    body=JinaRequest,
    from_core=from_core,
    examples={
        "objects": {
            "summary": "Objects",
            "value": {
                "model": "jina-reranker-v2-base-multilingual",
                "query": "How do plants make food?",
                "documents": [{"text": text} for text in _TEXTS],
                "top_n": 1,
            },
        }
    },
    reply_example={
        **cohere.V1.reply_example,
        "results": [{"index": 1, "relevance_score": 0.53, "document": {"text": _TEXTS[1]}}],
    },
)
