"""A line of a file as the model sees it: a query, and the texts to score against it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reranker_serve.api.documents import document_texts
from reranker_serve.errors import InvalidRequest

QUERIES = ("query", "anchor")
# Of each kind the first that a line has; a line may have one of each.
DOCUMENTS = ("document", "documents", "text", "texts", "passage", "passages")
POSITIVES = ("positive", "positives", "pos")
NEGATIVES = ("negative", "negatives", "neg")
TEXTS = (DOCUMENTS, POSITIVES, NEGATIVES)
TEXT_FIELDS = frozenset({*QUERIES, *(name for names in TEXTS for name in names)})
PROBLEM = "score_error"

# A line's scores, in the order of its texts; or why there are none.
Outcome = tuple[float, ...] | str


@dataclass(frozen=True, slots=True)
class Field:
    """Texts of one field: `count` of them, one where they are not `listed`; `scores` is the field for their scores."""

    name: str
    scores: str
    count: int
    listed: bool


@dataclass(frozen=True, slots=True)
class Row:
    """`number` counts from 1. `texts` are those of all `fields`, one after the other; none where there is a
    `problem`."""

    number: int
    query: str = ""
    texts: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    problem: str | None = None

    @property
    def checksum(self) -> int:
        """Tells whether a score is this row's; of each text the length, too, so that none may move to another place."""
        checksum = 0
        for text in (self.problem or "", self.query, *self.texts):
            own = text.encode()
            checksum = zlib.crc32(own, zlib.crc32(len(own).to_bytes(8, "little"), checksum))
        return checksum


def score_name(field: str, score: str, listed: bool) -> str:
    """Where the scores of a field's texts are written: `score` of `document`, `scores` of `documents`, `pos_scores` of
    `pos`, as training tools read them."""
    name = f"{score}s" if listed else score
    return name if field in DOCUMENTS else f"{field}_{name}"


def what_to_do(taken: str) -> str:
    """Where there is something of that name already."""
    return "remove it" if taken == PROBLEM else "choose another name with --score-name"


def row_of(number: int, value: Any, score: str) -> Row:
    """What a JSON object holds to be scored; `score` is the name that its scores will have."""
    try:
        return _row(number, value, score)
    except InvalidRequest as error:
        return Row(number, problem=_readable(str(error)))


def scored(row: Row, outcome: Outcome) -> dict[str, Any]:
    """The fields that a line gets."""
    if isinstance(outcome, str):
        return {PROBLEM: outcome}
    fields: dict[str, Any] = {}
    start = 0
    for field in row.fields:
        own = outcome[start : start + field.count]
        fields[field.scores] = list(own) if field.listed else own[0]
        start += field.count
    return fields


def _row(number: int, value: Any, score: str) -> Row:
    if not isinstance(value, Mapping):
        raise InvalidRequest("is not a JSON object")
    query = next((value[name] for name in QUERIES if name in value), None)
    if not isinstance(query, str) or not query.strip():
        raise InvalidRequest("query must be a string, and not empty")
    found = list(_texts(value, score))
    if not found:
        raise InvalidRequest("has no document, documents, positive or negative to score")
    taken = [name for name in (PROBLEM, *(field.scores for field, _ in found)) if name in value]
    if taken:
        raise InvalidRequest(f"has a field {taken[0]} already: {what_to_do(taken[0])}")
    texts = tuple(_readable(text) for _, own in found for text in own)
    return Row(number, _readable(query), texts, tuple(field for field, _ in found))


def _texts(value: Mapping[str, Any], score: str) -> Iterator[tuple[Field, Sequence[str]]]:
    for names in TEXTS:
        name = next((name for name in names if value.get(name) is not None), None)
        if name is None:
            continue
        listed = isinstance(value[name], list)
        documents = value[name] if listed else [value[name]]
        if not all(isinstance(document, str | dict) for document in documents):
            raise InvalidRequest(f"{name} must be a text or a list of texts")
        texts = document_texts(documents, None)
        yield Field(name, score_name(name, score, listed), len(texts), listed), texts


def _readable(text: str) -> str:
    """Halves of characters, which no tokenizer reads, become U+FFFD, as in the server."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def without_texts(value: Mapping[str, Any]) -> dict[str, Any]:
    """A line's other fields."""
    return {name: own for name, own in value.items() if name not in TEXT_FIELDS}
