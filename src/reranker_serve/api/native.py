"""The native API, `POST /rerank`: everything the server knows about a ranking."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from reranker_serve.api.body import Document, check_documents, document_texts, echo
from reranker_serve.api.dialects import Dialect, Reply
from reranker_serve.types import RerankRequest, RerankResult

Documents = Annotated[list[Document], BeforeValidator(check_documents)]


class NativeRequest(BaseModel):
    """Score documents against a query."""

    query: str = Field(description="What the documents should be relevant to.")
    documents: Documents = Field(description="Strings, or objects with `text` or the fields named in `rank_fields`.")
    top_n: int | None = Field(None, ge=0, description="Return only the best n; 0, null or absent: all.")
    return_documents: bool | None = Field(True, description="Echo each document beside its score.")
    rank_fields: list[str] | None = Field(None, description="Fields of object documents that form the ranked text.")
    instruction: str | None = Field(None, description="For models that take one.")
    max_length: int | None = Field(None, ge=1, description="Narrows the server's token limit of one pair.")
    raw_scores: bool | None = Field(False, description="Scores on the model's own scale instead of 0 to 1.")
    model: str | None = Field(None, description="Checked only in strict mode.")


def to_core(body: NativeRequest) -> RerankRequest:
    return RerankRequest(
        query=body.query,
        documents=document_texts(body.documents, body.rank_fields),
        top_n=body.top_n or None,
        model=body.model,
        instruction=body.instruction,
        max_length=body.max_length,
        raw_scores=bool(body.raw_scores),
    )


def from_core(result: RerankResult, body: NativeRequest, reply: Reply) -> dict[str, Any]:
    results = []
    for ranked in result.ranking:
        row: dict[str, Any] = {"index": ranked.index, "relevance_score": ranked.score}
        if body.return_documents is not False:
            row["document"] = echo(body.documents[ranked.index], body.rank_fields)
        row["truncated"] = ranked.truncated
        results.append(row)
    timings = result.timings
    tokens = result.usage.prompt_tokens
    return {
        "id": reply.request_id,
        "model": result.model,
        "results": results,
        "query_truncated": result.query_truncated,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "timings": {
            "tokenize_ms": round(timings.tokenize_ms, 3),
            "queue_ms": round(timings.queue_ms, 3),
            "inference_ms": round(timings.inference_ms, 3),
            "total_ms": round(timings.total_ms, 3),
        },
    }


_QUERY = "How do plants make food?"
_DOCUMENTS = [
    "The stock market fell sharply on Monday.",
    "Photosynthesis turns sunlight, water and carbon dioxide into sugar inside the leaves.",
    "Bread is made of flour, water and yeast.",
]

DIALECT = Dialect(
    name="native",
    summary="Rerank (native)",
    paths=("/rerank",),
    body=NativeRequest,
    to_core=to_core,
    from_core=from_core,
    examples={
        "strings": {"summary": "Strings", "value": {"query": _QUERY, "documents": _DOCUMENTS, "top_n": 2}},
        "objects": {
            "summary": "Objects ranked by two fields",
            "value": {
                "query": _QUERY,
                "documents": [
                    {"title": "Markets", "body": _DOCUMENTS[0], "id": 1},
                    {"title": "Leaves", "body": _DOCUMENTS[1], "id": 2},
                ],
                "rank_fields": ["title", "body"],
            },
        },
    },
    reply_example={
        "id": "req-6b1f0c",
        "model": "all-MiniLM-L6-v2",
        "results": [
            {"index": 1, "relevance_score": 0.53, "document": {"text": _DOCUMENTS[1]}, "truncated": False},
            {"index": 2, "relevance_score": 0.21, "document": {"text": _DOCUMENTS[2]}, "truncated": False},
        ],
        "query_truncated": False,
        "usage": {"prompt_tokens": 46, "total_tokens": 46},
        "timings": {"tokenize_ms": 0.4, "queue_ms": 0.1, "inference_ms": 7.9, "total_ms": 8.8},
    },
)
