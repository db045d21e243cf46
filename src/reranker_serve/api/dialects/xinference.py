"""Xinference's rerank API. https://inference.readthedocs.io/en/latest/models/model_abilities/rerank.html

Its client always sends `kwargs`, as JSON in a string.
"""

from __future__ import annotations

from reranker_serve.api.dialect import Dialect, has_field
from reranker_serve.api.errors import plain_error
from reranker_serve.api.superset import SupersetRequest, from_core, to_core

DIALECT = Dialect(
    name="xinference",
    vendor="Xinference",
    summary="Rerank",
    paths=("/xinference/v1/rerank",),
    body=SupersetRequest,
    to_core=to_core,
    from_core=from_core,
    recognises=has_field("kwargs", "return_len"),
    ignored=("return_len",),
    error=plain_error,
)
