"""What every reader of judgments makes: queries, documents, grades."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# query id -> document id -> grade; above 0 is relevant, and a pair that is not there was not judged
Grades = dict[str, dict[str, int]]
# query id -> document id -> score, higher is better
Run = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Documents:
    """Texts that stay in their files: each use reads them from the start. An id may come more than once."""

    rows: Callable[[], Iterator[tuple[str, str]]]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self.rows()

    def of(self, ids: Collection[str]) -> dict[str, str]:
        """Id -> text of those wanted that there are; no others are held."""
        wanted = ids if isinstance(ids, set | frozenset | dict) else set(ids)
        return {name: text for name, text in self.rows() if name in wanted}


@dataclass(frozen=True, slots=True)
class Judgments:
    """Queries that have a text and grades, in the order of their file: `queries` and `grades` have the same ids.

    `searchable`: `documents` has others than those judged, among which a first stage can search. `run` is a TREC run
    of such a first stage (`candidates.read_run`).
    """

    name: str
    queries: dict[str, str]
    grades: Grades
    documents: Documents
    searchable: bool = False
    run: Path | None = None

    def first(self, count: int | None) -> Judgments:
        """With the first `count` queries only; None for all."""
        if count is None:
            return self
        return self.among(list(self.queries)[:count])

    def among(self, queries: Collection[str]) -> Judgments:
        """With these queries only."""
        return replace(
            self,
            queries={query: self.queries[query] for query in queries},
            grades={query: self.grades[query] for query in queries},
        )

    @property
    def digest(self) -> str:
        """Of the queries and grades, whatever order they came in: 64 hex digits."""
        content = json.dumps([self.queries, self.grades], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
