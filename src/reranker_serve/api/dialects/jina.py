"""Jina's rerank API. https://jina.ai/reranker

`/v1/rerank` is Jina's own path too: there the reply is the same, but documents come back only when
asked for, as nothing in the body tells Jina's clients from Cohere's.
"""

from __future__ import annotations

from reranker_serve.api.dialect import Dialect, has_field
from reranker_serve.api.errors import plain_error
from reranker_serve.api.superset import EchoingRequest, from_core, to_core

DIALECT = Dialect(
    name="jina",
    vendor="Jina",
    summary="Rerank",
    paths=("/api/v1/rerank", "/jina/v1/rerank"),
    body=EchoingRequest,
    to_core=to_core,
    from_core=from_core,
    recognises=has_field("max_doc_length", "max_query_length", "return_embeddings"),
    ignored=("return_embeddings",),
    error=plain_error,
)
