"""What is scored so far, beside the file that is to be: after a kill at any moment it tells where to go on.

The first line tells by what was scored. Then there is one a row: a checksum of its texts, which ties the scores to it,
and the scores, or why there are none. It is only ever added to, so that a kill costs its last line at most.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from reranker_serve.errors import StartupError
from reranker_serve.tools.score.rows import Outcome, Row


class Journal:
    """Begins one (`is_new`), or goes on with the one that is there. `header` is an object of all that changes a score.

    Raises `StartupError` with one line if another process is at it, or if it was begun with another header.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.is_new = False
        try:
            self._file = _opened(path)
            self._recover(json.loads(json.dumps(header)))
        except OSError as error:
            raise self._failed(error) from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # a full disk was told when it was filled
            self._file.close()

    def add(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
        """They are on the disk when this returns."""
        lines = [
            _line([row.checksum, *([outcome] if isinstance(outcome, str) else outcome)])
            for row, outcome in zip(rows, outcomes, strict=True)
        ]
        try:
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Checksum and outcome of each row that was there when it was opened, and that was added since.

        Raises `StartupError` where it cannot be read.
        """
        try:
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if number > 1:
                        yield self._outcome(number, line)
        except OSError as error:
            raise StartupError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def _outcome(self, number: int, line: bytes) -> tuple[int, Outcome]:
        try:
            checksum, *found = json.loads(line)
        except (ValueError, TypeError):
            raise StartupError(f"{self.path} line {number} is damaged: remove the file to begin anew") from None
        return checksum, found[0] if found and isinstance(found[0], str) else tuple(found)

    def check(self, row: Row | None, checksum: int) -> None:
        """Raises `StartupError` unless this row was scored with that checksum."""
        if row is None or row.checksum != checksum:
            where = f"line {row.number}" if row else "a line at the end"
            raise StartupError(f"{where} is not what it was when it was scored: remove {self.path} to begin anew")

    def _recover(self, header: Any) -> None:
        """Cuts off what a kill left of a line."""
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            self.is_new = True
            self._file.truncate(0)
            self._file.write(_line(header))
            self._file.flush()
            return
        _check_header(first, header, self.path)
        whole = len(first) + sum(len(line) for line in self._file if line.endswith(b"\n"))
        self._file.truncate(whole)

    def _failed(self, error: OSError) -> StartupError:
        return StartupError(f"{self.path} cannot be written: {error.strerror or error}")


def _opened(path: Path) -> IO[bytes]:
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StartupError(f"another process is scoring into {path}") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # of a process that was done with it just now, and removed it


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _check_header(line: bytes, header: Mapping[str, Any], path: Path) -> None:
    try:
        before = json.loads(line)
        changed = [name for name in header if before[name] != header[name]]
    except (ValueError, KeyError, TypeError):
        raise StartupError(f"{path} was not begun by this version: remove it to begin anew") from None
    if changed:
        name = changed[0]
        raise StartupError(
            f"{path} was begun with {name} {json.dumps(before[name])}, and now it is {json.dumps(header[name])}:"
            " go on with that, or remove the file to begin anew"
        )
