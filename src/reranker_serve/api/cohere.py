"""Cohere's rerank API, v1 and v2, in the superset reply that other vendors' clients read as well.

https://docs.cohere.com/reference/rerank
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, Field

from reranker_serve.api.body import document_texts
from reranker_serve.api.dialects import Dialect, Reply
from reranker_serve.api.native import Documents
from reranker_serve.api.superset import superset_reply
from reranker_serve.types import RerankRequest, RerankResult


class CohereRequest(BaseModel):
    """Score documents against a query, Cohere's fields."""

    query: str
    documents: Documents = Field(description="Strings, or objects with `text` or the fields named in `rank_fields`.")
    model: str | None = Field(None, description="Checked only in strict mode.")
    top_n: int | None = Field(None, ge=0, description="Return only the best n; 0, null or absent: all.")
    rank_fields: list[str] | None = Field(None, description="Fields of object documents that form the ranked text.")
    return_documents: bool | None = Field(False, description="Echo each document beside its score.")


def to_core(body: CohereRequest) -> RerankRequest:
    return RerankRequest(
        query=body.query,
        documents=document_texts(body.documents, body.rank_fields),
        top_n=body.top_n or None,
        model=body.model,
    )


def from_core(result: RerankResult, body: CohereRequest, reply: Reply, *, version: str) -> dict[str, Any]:
    return superset_reply(result, body.documents, body.rank_fields, bool(body.return_documents), reply, version)


_REQUEST: dict[str, Any] = {
    "model": "rerank-v3.5",
    "query": "How do plants make food?",
    "documents": [
        "The stock market fell sharply on Monday.",
        "Photosynthesis turns sunlight, water and carbon dioxide into sugar inside the leaves.",
    ],
    "top_n": 1,
}


def _dialect(version: str, *paths: str) -> Dialect:
    return Dialect(
        name=f"cohere_v{version}",
        summary=f"Rerank (Cohere v{version})",
        paths=paths,
        body=CohereRequest,
        to_core=to_core,
        from_core=partial(from_core, version=version),
        examples={"strings": {"summary": "Strings", "value": _REQUEST}},
        reply_example={
            "id": "req-6b1f0c",
            "object": "rerank",
            "created": 1790000000,
            "model": "all-MiniLM-L6-v2",
            "results": [{"index": 1, "relevance_score": 0.53}],
            "usage": {"prompt_tokens": 36, "completion_tokens": 0, "total_tokens": 36},
            "meta": {
                "api_version": {"version": version},
                "billed_units": {"search_units": 1, "input_tokens": 36, "total_tokens": 36},
                "tokens": {"input_tokens": 36, "output_tokens": 0},
            },
        },
    )


V1 = _dialect("1", "/v1/rerank")
V2 = _dialect("2", "/v2/rerank")
