"""What a dialect is, and the table of all of them: one row each.

A dialect is two pure functions, `to_core` and `from_core`; it holds no try, no timing and no
logging. Adding one means a file and a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from reranker_serve.api.errors import superset_error
from reranker_serve.errors import RequestError
from reranker_serve.types import RerankRequest, RerankResult


@dataclass(frozen=True, slots=True)
class Reply:
    """What `from_core` may use beside the result and the body."""

    request_id: str
    created: int


@dataclass(frozen=True)
class Dialect:
    """One API: its paths, the body it takes, and how it becomes a core request and back."""

    name: str
    summary: str
    paths: tuple[str, ...]
    body: type[BaseModel]
    to_core: Callable[[Any], RerankRequest]
    from_core: Callable[[RerankResult, Any, Reply], dict[str, Any]]
    examples: dict[str, dict[str, Any]]
    reply_example: dict[str, Any]
    error: Callable[[RequestError], dict[str, Any]] = field(default=superset_error)


def all_dialects() -> tuple[Dialect, ...]:
    """The dialect table."""
    from reranker_serve.api import cohere, jina, native

    return (native.DIALECT, cohere.V1, cohere.V2, jina.DIALECT)
