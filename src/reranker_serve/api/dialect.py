"""What a dialect is: two pure functions, `to_core` and `from_core`, and a row of facts.

It holds no try, no timing and no logging. Adding one means a file in `dialects/` and a row in its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from starlette.routing import compile_path

from reranker_serve.api.errors import Statuses, superset_error
from reranker_serve.errors import InvalidRequest, RequestError
from reranker_serve.types import RerankRequest, RerankResult, ScoreRequest

_LISTS = ("documents", "docs", "texts", "passages", "input")


@dataclass(frozen=True, slots=True)
class Reply:
    """What `from_core` may use beside the result and the body."""

    request_id: str
    created: int


@dataclass(frozen=True, slots=True)
class Call:
    """What tells a request's dialect.

    `keys` are the names in the body, `given` those whose value is not null.
    """

    path: str
    headers: frozenset[str]
    keys: frozenset[str] = frozenset()
    given: frozenset[str] = frozenset()

    @classmethod
    def of(cls, path: str, headers: Iterator[str] | list[str], body: Mapping[str, Any]) -> Call:
        return cls(
            path,
            frozenset(name.lower() for name in headers),
            frozenset(body),
            frozenset(name for name, value in body.items() if value is not None),
        )

    @property
    def documents(self) -> bool:
        """The list to rank is called `documents`."""
        return not self.given.isdisjoint({"documents", "docs"})


def _never(call: Call) -> bool:
    return False


def has_field(*names: str) -> Callable[[Call], bool]:
    """Recognises a body with `documents` and any of these fields beside it."""
    return lambda call: call.documents and not call.keys.isdisjoint(names)


@dataclass(frozen=True)
class Dialect:
    """One API: where it is served, the body it takes, and how it becomes a core request and back.

    `paths` are its own, the first one documented; its requests are understood on every rerank
    path, by what `recognises` sees. A dialect with `alone` answers its paths whatever comes.
    `ignored` lists fields of its clients that change nothing here. With `shows_unscored` its replies have documents
    whose score is null, as they were not read before the request's deadline.
    """

    name: str
    vendor: str
    summary: str
    paths: tuple[str, ...]
    body: type[BaseModel]
    to_core: Callable[[Any], RerankRequest | ScoreRequest]
    from_core: Callable[[RerankResult, Any, Reply], Any]
    list_field: str = "documents"
    recognises: Callable[[Call], bool] = _never
    alone: bool = False
    shows_unscored: bool = False
    ignored: tuple[str, ...] = ()
    statuses: Statuses = "usual"
    error: Callable[[RequestError, int], dict[str, Any]] = superset_error

    @cached_property
    def patterns(self) -> tuple[Any, ...]:
        return tuple(compile_path(path)[0] for path in self.paths)


def check_lists(call: Call) -> None:
    """Raises `InvalidRequest` if two lists could be meant."""
    named = [name for name in _LISTS if name in call.given]
    if len(named) > 1:
        raise InvalidRequest(f"{named[0]} and {named[1]} are both given: send one list", named[1])
