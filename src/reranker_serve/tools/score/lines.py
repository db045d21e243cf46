"""JSON Lines, read and written a few hundred at a time; and what a file of another format has to be like."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from reranker_serve.errors import StartupError
from reranker_serve.tools.score.rows import Outcome, Row, row_of, scored, without_texts

_BATCH = 256


class Batch(Protocol):
    """Some lines in their order; `share` tells how much of the file is read with them."""

    @property
    def rows(self) -> Sequence[Row]: ...

    @property
    def share(self) -> float: ...

    def objects(self) -> Sequence[Any]:
        """What the lines hold, as JSON has it."""


class Source(Protocol):
    """A file; every call reads it from its start. Raises `StartupError` where it cannot be read."""

    @property
    def path(self) -> Path: ...

    def batches(self, texts_only: bool = False) -> Iterator[Batch]:
        """With `texts_only` they may lack what is not scored."""


class Target(Protocol):
    """A file that is written."""

    def write(self, batch: Batch, outcomes: Sequence[Outcome]) -> None: ...


@dataclass(frozen=True, slots=True)
class LineBatch:
    rows: list[Row]
    values: list[Any]
    share: float

    def objects(self) -> list[Any]:
        return self.values


@dataclass(frozen=True, slots=True)
class LineSource:
    """JSON Lines; blank ones are passed over. `score` is the name of the field that is to come."""

    path: Path
    score: str

    def batches(self, texts_only: bool = False) -> Iterator[LineBatch]:
        try:
            with self.path.open("rb") as raw:
                size = max(1, os.fstat(raw.fileno()).st_size)
                lines = gzip.GzipFile(fileobj=raw) if self.path.suffix == ".gz" else raw
                numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
                while some := list(islice(numbered, _BATCH)):
                    values = [_parsed(line, number == 1) for number, line in some]
                    rows = [self._row(number, value) for (number, _), value in zip(some, values, strict=True)]
                    yield LineBatch(rows, values, raw.tell() / size)
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self.path, error) from None

    def _row(self, number: int, value: Any) -> Row:
        return Row(number, problem=str(value)) if isinstance(value, _NotJson) else row_of(number, value, self.score)


class _NotJson(ValueError):
    """In place of what a line holds."""


def _parsed(line: bytes, first: bool) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError:
        return _NotJson("is not UTF-8")
    except (ValueError, RecursionError) as error:
        return _NotJson(f"is not JSON: {error}")


@dataclass(frozen=True, slots=True)
class LineTarget:
    """JSON Lines."""

    file: IO[bytes] | gzip.GzipFile
    drop_texts: bool

    def write(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        self.file.writelines(map(self._line, batch.rows, batch.objects(), outcomes))

    def _line(self, row: Row, value: Any, outcome: Outcome) -> bytes:
        fields = value if isinstance(value, dict) else {"line": row.number}
        if self.drop_texts:
            fields = without_texts(fields)
        line = {**fields, **scored(row, outcome)}
        try:
            return f"{json.dumps(line, ensure_ascii=False, default=str)}\n".encode()
        except UnicodeEncodeError:  # half a character, which only an escape can tell
            return f"{json.dumps(line, default=str)}\n".encode()


def unreadable(path: Path, error: Exception) -> StartupError:
    return StartupError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
