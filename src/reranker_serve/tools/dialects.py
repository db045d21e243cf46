"""What each kind of server is asked, and where its reply tells what.

The field names are those of `docs/api.md` and of each vendor's own description.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What a row's score is called.
_SCORES = ("relevance_score", "score", "logit")
# query, documents, the model's name -> the body's fields
MakeBody = Callable[[str, Sequence[str], str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class WireDialect:
    """One API: its usual path, its body, its list of results, and its count of tokens read.

    `raw` are the fields that ask for the model's own scale, where 1 - 1e-9 is not rounded to 1; `headers` are sent
    beside the key.
    """

    path: str
    body: MakeBody
    results: Callable[[Any], Sequence[Any]]
    tokens: Callable[[Any], int | None]
    raw: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    key_header: str = "Authorization"

    def all_headers(self, key: str | None) -> dict[str, str]:
        value = f"Bearer {key}" if self.key_header == "Authorization" else key
        return {
            "Content-Type": "application/json",
            **self.headers,
            **({self.key_header: value} if key and value else {}),
        }


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


def _voyage(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return _with_model(query, documents, model) | {"top_k": None, "truncation": True}


def _mixedbread(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return {"model": model, "query": query, "input": documents}


def _nim(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return {"model": model, "query": {"text": query}, "passages": _objects(documents), "truncate": "END"}


def _pinecone(query: str, documents: Sequence[str], model: str) -> dict[str, Any]:
    return _with_model_quiet(query, [], model) | {"documents": _objects(documents)}


def _objects(documents: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": document} for document in documents]


def _results(reply: Any) -> Sequence[Any]:
    rows: Sequence[Any] = reply["results"]
    return rows


def _rows(reply: Any) -> Sequence[Any]:
    rows: Sequence[Any] = reply
    return rows


def _data(reply: Any) -> Sequence[Any]:
    rows: Sequence[Any] = reply["data"]
    return rows


def _rankings(reply: Any) -> Sequence[Any]:
    rows: Sequence[Any] = reply["rankings"]
    return rows


def _usage(reply: Any) -> int | None:
    return (reply.get("usage") or {}).get("total_tokens")


def _cohere_tokens(reply: Any) -> int | None:
    return (reply.get("meta", {}).get("tokens") or {}).get("input_tokens")


def _none(reply: Any) -> int | None:
    return None


_RAW = {"raw_scores": True}
# All come back, whatever threshold a server of ours has.
_EVERYTHING = {"min_score": -1e30, "min_probability": 0}
DIALECTS = {
    "native": WireDialect("/rerank", _quiet, _results, _usage, raw=_RAW | _EVERYTHING),
    "cohere": WireDialect("/v2/rerank", _with_model, _results, _cohere_tokens),
    "jina": WireDialect("/v1/rerank", _with_model_quiet, _results, _usage),
    "tei": WireDialect("/rerank", _tei, _rows, _none, raw=_RAW),
    "vllm": WireDialect("/v1/rerank", _with_model, _results, _usage),
    "infinity": WireDialect("/rerank", _with_model_quiet, _results, _usage, raw=_RAW),
    "voyage": WireDialect("/v1/rerank", _voyage, _data, _usage),
    "mixedbread": WireDialect("/v1/reranking", _mixedbread, _data, _usage),
    "nim": WireDialect("/v1/ranking", _nim, _rankings, _usage),
    "pinecone": WireDialect(
        "/rerank", _pinecone, _data, _none, headers={"X-Pinecone-Api-Version": "2025-10"}, key_header="Api-Key"
    ),
}


def read_answer(dialect: WireDialect, content: bytes) -> Answer | None:
    """None if this is not a reply of that API."""
    try:
        reply = json.loads(content)
        return Answer(len(dialect.results(reply)), dialect.tokens(reply))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_scores(dialect: WireDialect, content: bytes, documents: int) -> list[float]:
    """A score for each document, in their order. Raises `ValueError` that says what the reply is instead."""
    try:
        rows = {row["index"]: _score(row) for row in dialect.results(json.loads(content))}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("is no ranking") from None
    if rows.keys() != set(range(documents)):
        raise ValueError(f"has scores of {len(rows)} documents, not of {documents}")
    return [rows[index] for index in range(documents)]


def _score(row: Any) -> float:
    score = float(row[next((name for name in _SCORES if name in row), "score")])
    if not math.isfinite(score):
        raise ValueError(score)
    return score
