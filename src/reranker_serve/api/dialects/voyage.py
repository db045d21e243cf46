"""Voyage's rerank API: `data` with string documents. https://docs.voyageai.com/reference/reranker-api

The reply has `results` as well, for Jina-style callers who happen to send `top_k` or `truncation`.
"""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field

from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.documents import document_texts
from reranker_serve.api.errors import plain_error
from reranker_serve.api.options import Whole
from reranker_serve.api.superset import SupersetRequest, superset_reply, to_core
from reranker_serve.types import RerankResult


class VoyageRequest(SupersetRequest):
    """Score documents against a query, Voyage's fields."""

    top_n: Whole | None = Field(
        None,
        ge=0,
        validation_alias=AliasChoices("top_k", "top_n"),
        description="return only the best k; 0, or more than there are: all",
    )


def recognises(call: Call) -> bool:
    return call.documents and not call.keys.isdisjoint({"top_k", "truncation"}) and "/v2/" not in call.path


def from_core(result: RerankResult, body: VoyageRequest, reply: Reply) -> dict[str, Any]:
    content = superset_reply(result, body, reply, "1")
    texts = document_texts(body.documents, body.rank_fields)
    data = [row | {"document": texts[row["index"]]} if "document" in row else row for row in content["results"]]
    return {**content, "object": "list", "data": data}


DIALECT = Dialect(
    name="voyage",
    vendor="Voyage",
    summary="Rerank",
    paths=("/voyage/v1/rerank",),
    body=VoyageRequest,
    to_core=to_core,
    from_core=from_core,
    recognises=recognises,
    error=plain_error,
)
