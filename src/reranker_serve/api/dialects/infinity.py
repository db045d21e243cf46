"""Infinity's rerank API, where a document is a plain string. https://github.com/michaelfeil/infinity"""

from __future__ import annotations

from typing import Any

from reranker_serve.api.dialect import Call, Dialect, Reply
from reranker_serve.api.documents import document_texts
from reranker_serve.api.errors import superset_error
from reranker_serve.api.superset import SupersetRequest, superset_reply, to_core
from reranker_serve.errors import RequestError
from reranker_serve.types import RerankResult


def recognises(call: Call) -> bool:
    """By `raw_scores`. The native API has that too: without `model`, or with its own `max_length`."""
    return call.documents and {"raw_scores", "model"} <= call.keys and "max_length" not in call.keys


def from_core(result: RerankResult, body: SupersetRequest, reply: Reply) -> dict[str, Any]:
    content = superset_reply(result, body, reply, "1")
    texts = document_texts(body.documents, body.rank_fields)
    for row in content["results"]:
        if "document" in row:
            row["document"] = texts[row["index"]]
    return content


def error(problem: RequestError, status: int) -> dict[str, Any]:
    """`detail` is a list where Infinity answers 422: its client reads nothing else there."""
    body = superset_error(problem, status)
    if status == 422:
        body["detail"] = [{"loc": ["body", problem.param or "body"], "msg": str(problem), "type": "value_error"}]
    return body


DIALECT = Dialect(
    name="infinity",
    vendor="Infinity",
    summary="Rerank",
    paths=("/infinity/rerank", "/infinity/v1/rerank"),
    body=SupersetRequest,
    to_core=to_core,
    from_core=from_core,
    recognises=recognises,
    statuses="infinity",
    error=error,
)
