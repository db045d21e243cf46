"""Judgments from files, told by their content.

beir    a folder: corpus.jsonl, queries.jsonl, qrels/test.tsv
trec    qrels (`query 0 document grade`), with the queries' and the documents' texts in files of their own
quepid  CSV with the columns query, docid, rating; the texts in a column `text`, or in a file of their own
pairs   JSON Lines: `query`, `positive` and `negative`, each a text or a list of texts
labels  JSON Lines: `query`, `document`, `label`, a judgment a line; of two about one pair the later counts
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker_serve.errors import StartupError
from reranker_serve.judgments.collection import Documents, Grades, Judgments
from reranker_serve.judgments.lines import columns, first_line, json_rows, refuse, table, texts

logger = logging.getLogger(__name__)

_QUERY = ("query", "query text")
_DOCUMENT = ("docid", "doc id", "document id")
_RATING = ("rating", "grade")
_TEXT = ("text", "document", "document text")
_POSITIVE = ("positive", "positives", "pos")
_NEGATIVE = ("negative", "negatives", "neg")
# (line number,) query, document, grade; texts or ids, as the format has them
Rows = Iterator[tuple[str, str, int]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where judgments are. `corpus` and `topics` have the documents' and the queries' texts where `path` has not;
    `run` is a first stage's, `split` a BEIR folder's file of grades."""

    path: Path
    format: str | None = None
    corpus: Path | None = None
    topics: Path | None = None
    run: Path | None = None
    split: str = "test"


def read(source: Source) -> Judgments:
    """Read the judgments, and the texts of queries. Raises `StartupError` with one line: the file, the line's number,
    and what is wrong there."""
    name = source.format or tell_format(source.path)
    if name not in FORMATS:
        raise StartupError(f"{name} is no format of judgments: choose one of {', '.join(FORMATS)}")
    return FORMATS[name](source)


def tell_format(path: Path) -> str:
    """By the content of a file, or by there being a folder. Raises `StartupError` if it looks like none."""
    if path.is_dir():
        return "beir"
    line = first_line(path)
    if line.startswith("{"):
        _, row = next(json_rows(path))
        if not row.keys().isdisjoint(_POSITIVE):
            return "pairs"
        if "label" in row:
            return "labels"
    elif not {name.strip(' "').lower() for name in line.split(",")}.isdisjoint(_RATING):
        return "quepid"
    elif len(line.split()) == 4 and _is_whole(line.split()[3]):
        return "trec"
    raise StartupError(f"{path} looks like none of {', '.join(FORMATS)}: see --format, and docs/quality.md for each")


def beir(source: Source) -> Judgments:
    """https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset"""
    folder = source.path
    qrels = folder / "qrels" / f"{source.split}.tsv"
    if not qrels.exists() and (others := sorted(file.stem for file in qrels.parent.glob("*.tsv"))):
        raise StartupError(f"{qrels} does not exist: choose with --split from {', '.join(others)}")

    def rows() -> Rows:
        for number, row in table(qrels, "\t"):
            if not {"query-id", "corpus-id", "score"} <= row.keys():
                refuse(qrels, 1, "the columns must be query-id, corpus-id and score")
            yield row["query-id"], row["corpus-id"], _grade(row["score"], qrels, number)

    return _by_id(source, rows(), source.topics or folder / "queries.jsonl", source.corpus or folder / "corpus.jsonl")


def trec(source: Source) -> Judgments:
    """https://github.com/usnistgov/trec_eval"""
    if not source.topics or not source.corpus:
        raise StartupError(f"{source.path} has ids only: name files with the texts by --topics and --corpus")
    rows = (
        (query, document, _grade(grade, source.path, number))
        for number, (query, _, document, grade) in columns(source.path, 4)
    )
    return _by_id(source, rows, source.topics, source.corpus)


def quepid(source: Source) -> Judgments:
    """https://quepid.com: what it exports. A row without a rating was not judged."""
    _, first = next(table(source.path, ","), (0, {}))
    text = _named(first, _TEXT)
    if text:
        return _by_text(source, lambda: _quepid_rows(source.path, (text,)))
    if not source.corpus:
        raise StartupError(f"{source.path} has no column `text`: name a file with the documents' texts by --corpus")
    return _by_id(source, _quepid_rows(source.path, _DOCUMENT), None, source.corpus)


def pairs(source: Source) -> Judgments:
    """As sentence-transformers and FlagEmbedding have them for training and for their evaluators."""
    return _by_text(source, lambda: _pair_rows(source.path))


def labels(source: Source) -> Judgments:
    """What is added to line by line, as judgments are made; `time` and other fields are for those who read the file."""
    return _by_text(source, lambda: _label_rows(source.path))


FORMATS: dict[str, Callable[[Source], Judgments]] = {
    "beir": beir,
    "trec": trec,
    "quepid": quepid,
    "pairs": pairs,
    "labels": labels,
}


def _quepid_rows(path: Path, document: tuple[str, ...]) -> Rows:
    for number, row in table(path, ","):
        names = _named(row, _QUERY), _named(row, document), _named(row, _RATING)
        if not all(names):
            refuse(path, 1, "there must be columns query, docid and rating")
        query, name, rating = (row[column].strip() for column in names if column)
        if rating:
            yield query, name, _grade(rating, path, number)


def _pair_rows(path: Path) -> Rows:
    for number, row in json_rows(path):
        query = row.get("query", row.get("anchor"))
        positives, negatives = (_list(row.get(_named(row, names) or "")) for names in (_POSITIVE, _NEGATIVE))
        if not isinstance(query, str) or positives is None or negatives is None:
            refuse(path, number, "query must be a string, positive and negative a string or a list of strings")
        yield from ((query, document, 0) for document in negatives)
        yield from ((query, document, 1) for document in positives)


def _label_rows(path: Path) -> Rows:
    for number, row in json_rows(path):
        query, document = row.get("query"), row.get("document")
        if not isinstance(query, str) or not isinstance(document, str):
            refuse(path, number, "query and document must be strings")
        yield query, document, _grade(row.get("label"), path, number)


def _by_id(source: Source, rows: Rows, topics: Path | None, corpus: Path) -> Judgments:
    """Without `topics` a query's text is its id."""
    grades = _collect(rows)
    queries = (
        {name: text for name, text in texts(topics) if name in grades} if topics else {name: name for name in grades}
    )
    if len(queries) < len(grades):
        missing = next(name for name in grades if name not in queries)
        logger.warning("%d judged queries have no text in %s, such as %s", len(grades) - len(queries), topics, missing)
    return _made(source, queries, grades, Documents(lambda: texts(corpus)), searchable=True)


def _by_text(source: Source, rows: Callable[[], Rows]) -> Judgments:
    """A query's id is its text, a document's is made of its text."""
    if source.corpus or source.topics or source.run:
        raise StartupError(f"{source.path} has the texts itself: leave out --corpus, --topics and --run")
    grades = _collect((query, text_id(document), grade) for query, document, grade in rows())
    documents = Documents(lambda: ((text_id(document), document) for _, document, _ in rows()))
    return _made(source, {name: name for name in grades}, grades, documents, searchable=False)


def _made(
    source: Source, queries: dict[str, str], grades: Grades, documents: Documents, *, searchable: bool
) -> Judgments:
    if not queries:
        raise StartupError(f"{source.path} has no judged queries")
    name = source.path.resolve().name.split(".")[0]
    known = {query: grades[query] for query in queries}
    return Judgments(name, queries, known, documents, searchable, source.run)


def _collect(rows: Rows) -> Grades:
    grades: Grades = {}
    for query, document, grade in rows:
        grades.setdefault(query, {})[document] = grade
    return grades


def text_id(text: str) -> str:
    """A document's id where its file gives it none: the same for the same text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _named(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _list(value: Any) -> list[str] | None:
    """None if it is neither a text nor a list of texts nor missing."""
    listed = [] if value is None else [value] if isinstance(value, str) else value
    return listed if isinstance(listed, list) and all(isinstance(text, str) for text in listed) else None


def _is_whole(value: Any) -> bool:
    try:
        return float(value).is_integer()
    except (TypeError, ValueError, OverflowError):
        return False


def _grade(value: Any, path: Path, number: int) -> int:
    if not _is_whole(value):
        refuse(path, number, f"the grade {value!r} is not a whole number")
    return int(float(value))
