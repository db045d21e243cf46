"""What is counted goes to the file of usage, on a thread of its own: no reply waits for a disk."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from reranker_serve.rates import midnight
from reranker_serve.telemetry.usage import Amount
from reranker_serve.telemetry.usage_file import SpentRow, UsageRow, add, check, utc_day

logger = logging.getLogger(__name__)

_Row = TypeVar("_Row", UsageRow, SpentRow)

# At most so much is lost when the process is killed.
_EVERY_S = 1.0
# At the end of the process, for a disk that hangs.
_LAST_S = 5.0
# That wait for a disk that takes nothing: of a key, a model and a day one each.
_MOST_ROWS = 10_000


@dataclass(slots=True)
class _Counts:
    usage: dict[UsageRow, Amount] = field(default_factory=dict)
    spent: dict[SpentRow, Amount] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return sum(amount.requests for amount in self.usage.values())

    def take(self, other: _Counts) -> None:
        for row, amount in other.usage.items():
            _add(self.usage, row, amount)
        for spent, amount in other.spent.items():
            _add(self.spent, spent, amount)


class Record:
    """Adds to the file at `path` once a second at most; several processes may.

    What cannot be written is kept, as far as there is room, and tried again; one line of the log tells when that
    begins, and one when it ends. Raises `SettingsError` if the file can never be used.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        check(path)
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting = _Counts()
        self._writing = _Counts()
        self._written: dict[SpentRow, Amount] = {}
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._fails = False
        self._write()  # nothing yet, but what was spent before this process is known from now on

    def count(self, key: str | None, model: str, amount: Amount) -> None:
        """An answered request, of the key with that label; None where no key is needed."""
        with self._lock:
            _add(self._waiting.usage, (utc_day(self._clock()), key or "", model), amount)
        self._ask()

    # As `Windows`, for days that outlive the process and that all processes which write the file count together.

    def of(self, caller: str, now: float) -> tuple[float, int, int]:
        """When the day ends, and the requests and tokens of this key in it; of other processes as of a second ago."""
        row = (utc_day(now), caller)
        with self._lock:
            counts = (self._written, self._writing.spent, self._waiting.spent)
            had = sum((each.get(row, Amount()) for each in counts), Amount())
        self._ask()
        return midnight(now), had.requests, had.tokens

    def charge(self, caller: str, now: float, requests: int = 0, tokens: int = 0) -> None:
        with self._lock:
            _add(self._waiting.spent, (utc_day(now), caller), Amount(requests=requests, tokens=tokens))
        self._ask()

    def close(self) -> None:
        """Write what waits. Takes some seconds at most; says what was lost."""
        self._closing.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join(_LAST_S)
        with self._lock:
            lost = self._waiting.requests + self._writing.requests
        if lost:
            logger.error("the usage of %d request(s) is lost: %s could not be written", lost, self.path)

    def _ask(self) -> None:
        if self._thread is None:  # not before, so that an application that is only built has no thread
            self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
            self._thread.start()
        self._asked.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._asked.wait()
            self._asked.clear()
            self._write()
            if self._fails:
                self._asked.set()
            self._closing.wait(_EVERY_S)
        self._write()

    def _write(self) -> None:
        with self._lock:
            self._writing, self._waiting = self._waiting, _Counts()
        try:
            written = add(self.path, self._writing.usage, self._writing.spent, utc_day(self._clock()))
        except sqlite3.Error as error:
            with self._lock:
                newer, self._waiting = self._waiting, self._writing
                self._waiting.take(newer)
                self._writing = _Counts()
            self._tell_failure(error)
            return
        with self._lock:
            self._written, self._writing = written, _Counts()
        if self._fails:
            self._fails = False
            logger.info("usage is written to %s again", self.path)

    def _tell_failure(self, error: sqlite3.Error) -> None:
        if not self._fails:
            self._fails = True
            logger.error("usage cannot be written to %s and is kept in memory: %s", self.path, error)


def _add(counts: dict[_Row, Amount], row: _Row, amount: Amount) -> None:
    if row in counts or len(counts) < _MOST_ROWS:
        counts[row] = counts.get(row, Amount()) + amount
