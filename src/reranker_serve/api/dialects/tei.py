"""Text Embeddings Inference: `texts`, and a bare array of all of them.

https://huggingface.github.io/text-embeddings-inference
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from reranker_serve import errors
from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.dialects.hf import PATHS as HF_PATHS
from reranker_serve.api.documents import Documents, Query, document_texts
from reranker_serve.api.options import Options, core_request, extras
from reranker_serve.types import RerankRequest, RerankResult

# As they are on the wire; TEI's own OpenAPI examples show them in lower case.
_ERROR_TYPE: dict[type[errors.RequestError], str] = {
    errors.NoDocuments: "Empty",
    errors.Overloaded: "Overloaded",
    errors.InferenceFailed: "Backend",
    errors.DeadlineExceeded: "Backend",
    errors.NotReady: "Unhealthy",
    errors.Unauthorized: "Unauthorized",
}


class TeiRequest(Options):
    """Score texts against a query, TEI's fields. Every text comes back."""

    query: Query = Field(description="what the texts should be relevant to")
    texts: Documents = Field(description="strings")
    return_text: bool | None = Field(None, description="echo each text beside its score; false by default")


def recognises(call: Call) -> bool:
    return "texts" in call.given and not call.documents and call.path not in HF_PATHS


def to_core(body: TeiRequest) -> RerankRequest:
    return core_request(body, body.query, document_texts(body.texts, None))


def from_core(result: RerankResult, body: TeiRequest, reply: Reply) -> list[dict[str, Any]]:
    texts = document_texts(body.texts, None)
    rows = []
    for ranked in result.ranking:
        row: dict[str, Any] = {"index": ranked.index, "score": ranked.score}
        if body.return_text:
            row["text"] = texts[ranked.index]
        rows.append(row | extras(body, ranked))
    return rows


def error(problem: errors.RequestError, status: int) -> dict[str, Any]:
    message = str(problem)
    kind = _ERROR_TYPE.get(type(problem), "Validation")
    return {"error": message, "error_type": kind, "message": message, "detail": message}


DIALECT = Dialect(
    name="tei",
    vendor="Text Embeddings Inference",
    summary="Rerank",
    paths=("/tei/rerank", "/", "/invocations"),
    body=TeiRequest,
    to_core=to_core,
    from_core=from_core,
    list_field="texts",
    recognises=recognises,
    ignored=("top_n",),
    statuses="tei",
    error=error,
)
