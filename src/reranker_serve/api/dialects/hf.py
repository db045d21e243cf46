"""`texts` on `/reranking`: an object around the scores, as earlier versions of this API answered."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field

from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.documents import Documents, Query, document_texts
from reranker_serve.api.options import Options, Whole, core_request, extras
from reranker_serve.api.superset import usage
from reranker_serve.types import RerankRequest, RerankResult

PATHS = ("/reranking", "/v1/reranking")


class HfRequest(Options):
    """Score texts against a query."""

    query: Query = Field(description="what the texts should be relevant to")
    texts: Documents = Field(description="strings")
    top_k: Whole | None = Field(
        None,
        ge=0,
        validation_alias=AliasChoices("top_k", "top_n"),
        description="return only the best k; 0, or more than there are: all",
    )
    return_texts: bool | None = Field(
        True,
        validation_alias=AliasChoices("return_texts", "return_documents", "return_text"),
        description="echo each text beside its score",
    )


def recognises(call: Call) -> bool:
    return "texts" in call.given and not call.documents and call.path in PATHS


def to_core(body: HfRequest) -> RerankRequest:
    return core_request(body, body.query, document_texts(body.texts, None), body.top_k)


def from_core(result: RerankResult, body: HfRequest, reply: Reply) -> dict[str, Any]:
    texts = document_texts(body.texts, None)
    results = [
        {
            "index": ranked.index,
            "score": ranked.score,
            "text": texts[ranked.index] if body.return_texts else None,
            **extras(body, ranked),
        }
        for ranked in result.ranking
    ]
    return {"model": result.model, "usage": usage(result), "results": results}


DIALECT = Dialect(
    name="hf",
    vendor="Texts in an object",
    summary="Rerank texts",
    paths=("/reranking",),
    body=HfRequest,
    to_core=to_core,
    from_core=from_core,
    list_field="texts",
    recognises=recognises,
)
