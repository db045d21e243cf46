"""vLLM's score API: pairs in, scores in the same order out.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field

from reranker_serve.api.dialect import Dialect, Reply
from reranker_serve.api.documents import Documents, document_texts
from reranker_serve.api.options import Options, extras
from reranker_serve.api.pairs import score_request
from reranker_serve.api.superset import usage
from reranker_serve.errors import InvalidRequest, NoDocuments
from reranker_serve.types import RerankResult, ScoreRequest


class ScoreBody(Options):
    """Score pairs: one query with each document, or query by query and document by document."""

    queries: Documents = Field(
        validation_alias=AliasChoices("queries", "query", "data_1", "text_1"),
        description="one, or as many as documents; also called `data_1` or `text_1`",
    )
    documents: Documents = Field(
        validation_alias=AliasChoices("documents", "docs", "items", "data_2", "text_2"),
        description="one or many; also called `items`, `data_2` or `text_2`",
    )


def to_core(body: ScoreBody) -> ScoreRequest:
    """Raises `InvalidRequest` if the lists do not pair up. Each query is asked once."""
    queries, documents = document_texts(body.queries, None), document_texts(body.documents, None)
    if not queries or not documents:
        raise NoDocuments("at least one pair must be given", "queries" if documents else "documents")
    if len(queries) == 1:
        queries = queries * len(documents)
    if len(queries) != len(documents):
        raise InvalidRequest(f"{len(queries)} queries and {len(documents)} documents do not pair up", "documents")
    return score_request(body, list(zip(queries, documents, strict=True)))


def from_core(result: RerankResult, body: ScoreBody, reply: Reply) -> dict[str, Any]:
    return {
        "id": reply.request_id,
        "object": "list",
        "created": reply.created,
        "model": result.model,
        "data": [
            {"index": ranked.index, "object": "score", "score": ranked.score, **extras(body, ranked)}
            for ranked in result.ranking
        ],
        "usage": usage(result),
    }


DIALECT = Dialect(
    name="vllm_score",
    vendor="vLLM",
    summary="Score pairs",
    paths=("/score", "/v1/score"),
    body=ScoreBody,
    to_core=to_core,
    from_core=from_core,
    alone=True,
    ignored=("user", "request_id", "mm_processor_kwargs", "cache_salt"),
)
