"""What each kind of server is asked, and where its reply tells what.

The field names are those of `docs/api.md` and of each vendor's own description.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# query, documents, the model's name -> the body's fields
MakeBody = Callable[[str, Sequence[str], str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class WireDialect:
    """One API: its usual path, its body, its list of results, and its count of tokens read."""

    path: str
    body: MakeBody
    results: Callable[[Any], Sequence[Any]]
    tokens: Callable[[Any], int | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a good reply holds; `tokens` is None where the server does not tell."""

    documents: int
    tokens: int | None


def _quiet(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return {"query": query, "documents": documents, "return_documents": False}


def _with_model(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return {"model": model, "query": query, "documents": documents}


def _with_model_quiet(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return {"model": model} | _quiet(query, documents, model)


def _tei(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return {"query": query, "texts": documents, "truncate": True}


def _results(reply: Any) -> Sequence[Any]:
    rows: Sequence[Any] = reply["results"]
    return rows


def _rows(reply: Any) -> Sequence[Any]:
    rows: Sequence[Any] = reply
    return rows


def _usage(reply: Any) -> int | None:
    return (reply.get("usage") or {}).get("total_tokens")


def _cohere_tokens(reply: Any) -> int | None:
    return (reply.get("meta", {}).get("tokens") or {}).get("input_tokens")


def _none(reply: Any) -> int | None:
    return None


DIALECTS = {
    "native": WireDialect("/rerank", _quiet, _results, _usage),
    "cohere": WireDialect("/v2/rerank", _with_model, _results, _cohere_tokens),
    "jina": WireDialect("/v1/rerank", _with_model_quiet, _results, _usage),
    "tei": WireDialect("/rerank", _tei, _rows, _none),
    "vllm": WireDialect("/v1/rerank", _with_model, _results, _usage),
    "infinity": WireDialect("/rerank", _with_model_quiet, _results, _usage),
}


def read_answer(dialect: WireDialect, content: bytes) -> Answer | None:
    """None if this is not a reply of that API."""
    try:
        reply = json.loads(content)
        return Answer(len(dialect.results(reply)), dialect.tokens(reply))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
