"""Which files can be scored: the format is told by the name."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from reranker_serve.errors import StartupError
from reranker_serve.tools.score.lines import LineSource, LineTarget, Source, Target
from reranker_serve.tools.score.rows import PROBLEM
from reranker_serve.tools.score.tables import TableSource, tables

LINES = (".jsonl", ".ndjson", ".json")
TABLE = ".parquet"
_KINDS = f"{', '.join(LINES)}, each also with .gz behind it, or {TABLE}"
# Speed before size: level 6 takes twice as long for a tenth less, on English text.
_COMPRESSION = 3


def check_name(path: Path) -> None:
    """Raises `StartupError` if the name tells no format that is known."""
    unpacked = path.with_suffix("") if path.suffix == ".gz" else path
    if path.suffix != TABLE and unpacked.suffix not in LINES:
        raise StartupError(f"{path} should end in {_KINDS}")


def source(path: Path, score: str) -> Source:
    """Raises `StartupError`."""
    check_name(path)
    if score == PROBLEM:
        raise StartupError(f"--score-name {score}: that tells why there is no score, choose another name")
    return TableSource.open(path, score) if path.suffix == TABLE else LineSource(path, score)


@contextmanager
def target(path: Path, of: Source, drop_texts: bool) -> Iterator[Target]:
    """A file that is there, and whole, when the block ends without an error."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            with _writer(path, file, of, drop_texts) as writer:
                yield writer
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise StartupError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # else a disk that is full would stay so
            unfinished.unlink(missing_ok=True)


def _writer(path: Path, file: IO[bytes], of: Source, drop_texts: bool) -> AbstractContextManager[Target]:
    if path.suffix == TABLE:
        return tables(file, of, drop_texts)
    return _lines(file, path.suffix == ".gz", drop_texts)


@contextmanager
def _lines(file: IO[bytes], compressed: bool, drop_texts: bool) -> Iterator[Target]:
    if not compressed:
        yield LineTarget(file, drop_texts)
        return
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_COMPRESSION, mtime=0) as packed:
        yield LineTarget(packed, drop_texts)
