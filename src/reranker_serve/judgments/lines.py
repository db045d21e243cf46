"""Files read line by line, so that what is wrong has a file and a number, and a large file is never in memory."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reranker_serve.errors import StartupError

_ID = ("_id", "id", "docid", "doc_id")
_TEXT = ("text", "contents", "content")
_FIELD_LIMIT = 2**31 - 1  # of characters; csv's own is 131,072, and documents may be longer


def refuse(path: Path, number: int, what: str) -> NoReturn:
    """Raises `StartupError` that names the line."""
    raise StartupError(f"{path} line {number}: {what}") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line with its number, from 1; UTF-8, compressed if the name ends in .gz. Raises `StartupError`."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as content:
            for number, line in enumerate(content, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        refuse(path, number, "is not UTF-8")
    except (OSError, EOFError, zlib.error) as error:
        raise StartupError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def first_line(path: Path) -> str:
    """The first that is not blank. Raises `StartupError` if there is none."""
    for _, line in lines(path):
        if line.strip():
            return line.strip()
    raise StartupError(f"{path} is empty")


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON Lines: one object a line."""
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            refuse(path, number, f"is not JSON: {error}")
        if not isinstance(row, dict):
            refuse(path, number, "is not a JSON object")
        yield number, row


def columns(path: Path, count: int) -> Iterator[tuple[int, list[str]]]:
    """Columns between blanks, as TREC has them."""
    for number, line in lines(path):
        row = line.split()
        if not row:
            continue
        if len(row) != count:
            refuse(path, number, f"has {len(row)} columns, not {count}")
        yield number, row


def table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """CSV with a header: column name, in lower case -> value. A quoted value may hold line breaks."""
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader((line for _, line in lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    try:
        for row in reader:
            if not any(row):
                continue
            if not header:
                header = [name.strip().lower() for name in row]
                continue
            if len(row) != len(header):
                refuse(path, reader.line_num, f"has {len(row)} columns, its header {len(header)}")
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        refuse(path, reader.line_num, f"is not CSV: {error}")


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each line: JSON with an id, a text and perhaps a title, or columns between tabs, the id first."""
    if first_line(path).startswith("{"):
        yield from _json_texts(path)
        return
    for number, line in lines(path):
        if not line.strip():
            continue
        name, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab:
            refuse(path, number, "is neither JSON nor an id, a tab and a text")
        yield name, text.replace("\t", " ").strip()


def _json_texts(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in json_rows(path):
        name, text, title = _of(row, _ID), _of(row, _TEXT), row.get("title")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not isinstance(text, str):
            refuse(path, number, "_id and text must be strings")
        yield name, f"{title} {text}".strip() if isinstance(title, str) else text.strip()


def _of(row: dict[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if name in row), None)
