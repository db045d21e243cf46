"""The table of all dialects, and how a request's dialect is told."""

from __future__ import annotations

from operator import itemgetter

from reranker_serve.api.dialect import Call, Dialect
from reranker_serve.api.dialects import (
    cohere_v1,
    cohere_v2,
    hf,
    infinity,
    jina,
    mixedbread,
    native,
    nim,
    pinecone,
    tei,
    tei_predict,
    vllm,
    vllm_score,
    voyage,
    xinference,
)

# Marks are looked for in this order: the first dialect that recognises a request answers it. The number is its place
# where people look for it: our own API, then by how many use it.
_TABLE = (
    # by a header
    (pinecone.DIALECT, 14),
    # by what the list is called; two lists are refused, so that among these the order is free
    (nim.DIALECT, 12),
    (mixedbread.DIALECT, 13),
    (hf.DIALECT, 15),
    (tei.DIALECT, 5),
    # by a field beside `documents`, the surest first, as a body may hold those of several
    (voyage.DIALECT, 7),
    (infinity.DIALECT, 10),
    (cohere_v2.DIALECT, 2),  # by its path, which is surer than the fields below
    (xinference.DIALECT, 11),
    (vllm.DIALECT, 8),
    (jina.DIALECT, 4),
    # by the path alone
    (cohere_v1.DIALECT, 3),
    (native.DIALECT, 1),
    (vllm_score.DIALECT, 9),
    (tei_predict.DIALECT, 6),
)

DIALECTS = tuple(dialect for dialect, _ in _TABLE)
SHOWN = tuple(dialect for dialect, _ in sorted(_TABLE, key=itemgetter(1)))


class DialectTable:
    """All dialects, in the order in which their marks are looked for."""

    def __init__(self, rows: tuple[Dialect, ...]) -> None:
        self.rows = rows
        self._by_path = {path: row for row in rows for path in row.paths if "{" not in path}
        self._with_parameters = [row for row in rows if any("{" in path for path in row.paths)]
        self._superset = next(row for row in rows if row.name == "cohere_v1")

    def at(self, path: str) -> Dialect | None:
        """The dialect that a path belongs to, or None."""
        own = self._by_path.get(path)
        if own is not None:
            return own
        matching = (row for row in self._with_parameters if any(pattern.match(path) for pattern in row.patterns))
        return next(matching, None)

    def tell(self, call: Call) -> Dialect | None:
        """By marks in headers and body, else by path; None if the path is no rerank path."""
        own = self.at(call.path)
        if own is None or own.alone:
            return own
        marked = next((row for row in self.rows if row.recognises(call)), None)
        if marked is not None:
            return marked
        return self._superset if call.documents and own.list_field != "documents" else own
