"""Cohere's rerank API, version 1; its reply is one that other vendors' clients read as well.

https://docs.cohere.com/v1/reference/rerank
"""

from __future__ import annotations

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.errors import plain_error
from reranker_serve.api.superset import SupersetRequest, from_core, to_core

DIALECT = Dialect(
    name="cohere_v1",
    vendor="Cohere",
    summary="Rerank, version 1",
    paths=("/v1/rerank", "/rerank/v1", "/v1/v1/rerank"),
    body=SupersetRequest,
    to_core=to_core,
    from_core=from_core,
    error=plain_error,
)
