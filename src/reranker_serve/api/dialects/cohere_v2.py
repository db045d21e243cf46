"""Cohere's rerank API, version 2. https://docs.cohere.com/reference/rerank

`/v1/v2/rerank` is where Cohere's own client and LiteLLM arrive with a base address that ends in `/v1`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.errors import plain_error
from reranker_serve.api.superset import SupersetRequest, superset_reply, to_core
from reranker_serve.types import RerankResult

PATHS = ("/v2/rerank", "/v1/v2/rerank")


def recognises(call: Call) -> bool:
    return call.path in PATHS and call.documents


def from_core(result: RerankResult, body: SupersetRequest, reply: Reply, *, version: str) -> dict[str, Any]:
    return superset_reply(result, body, reply, version)


DIALECT = Dialect(
    name="cohere_v2",
    vendor="Cohere",
    summary="Rerank, version 2",
    paths=PATHS,
    body=SupersetRequest,
    to_core=to_core,
    from_core=partial(from_core, version="2"),
    recognises=recognises,
    error=plain_error,
)
