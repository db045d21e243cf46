"""NVIDIA NIM's ranking API: `passages`, and logits. https://docs.nvidia.com/nim/nemo-retriever/text-reranking"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.documents import Documents, Query, document_texts
from reranker_serve.api.options import Options, core_request, extras
from reranker_serve.api.superset import usage
from reranker_serve.types import RerankRequest, RerankResult


class NimRequest(Options):
    """Score passages against a query, NIM's fields. Every passage comes back, with its raw score."""

    query: Query = Field(description='what the passages should be relevant to, `{"text": ...}` or a string')
    passages: Documents = Field(description="objects with `text`, or strings")


def recognises(call: Call) -> bool:
    return "passages" in call.given


def to_core(body: NimRequest) -> RerankRequest:
    return core_request(body, body.query, document_texts(body.passages, None), raw_scores=True)


def from_core(result: RerankResult, body: NimRequest, reply: Reply) -> dict[str, Any]:
    rankings = [{"index": ranked.index, "logit": ranked.score, **extras(body, ranked)} for ranked in result.ranking]
    return {"rankings": rankings, "usage": usage(result)}


DIALECT = Dialect(
    name="nim",
    vendor="NVIDIA NIM",
    summary="Ranking",
    paths=("/v1/ranking", "/ranking", "/v1/retrieval/{model:path}/reranking"),
    body=NimRequest,
    to_core=to_core,
    from_core=from_core,
    list_field="passages",
    recognises=recognises,
    ignored=("top_n", "top_k"),
)
