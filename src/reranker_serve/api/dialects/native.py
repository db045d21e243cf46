"""The native API, `POST /rerank`: the reply of the others, and everything else the server knows about a ranking."""

from __future__ import annotations

from typing import Any

from reranker_serve.api.dialect import Dialect, Reply
from reranker_serve.api.superset import EchoingRequest, superset_reply, to_core
from reranker_serve.types import RerankResult


def from_core(result: RerankResult, body: EchoingRequest, reply: Reply) -> dict[str, Any]:
    content = superset_reply(result, body, reply, "1")
    for row, ranked in zip(content["results"], result.ranking, strict=True):
        row |= {"truncated": ranked.truncated, "tokens": ranked.tokens}
    timings = result.timings
    return content | {
        "query_truncated": result.query_truncated,
        "timings": {
            "tokenize_ms": round(timings.tokenize_ms, 3),
            "queue_ms": round(timings.queue_ms, 3),
            "inference_ms": round(timings.inference_ms, 3),
            "total_ms": round(timings.total_ms, 3),
        },
    }


DIALECT = Dialect(
    name="native",
    vendor="Native",
    summary="Rerank",
    paths=("/rerank",),
    body=EchoingRequest,
    to_core=to_core,
    from_core=from_core,
    shows_unscored=True,
)
