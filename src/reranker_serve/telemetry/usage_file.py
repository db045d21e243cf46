"""The SQLite file of usage: its tables, and how they are written and read. Each call opens and closes it.

So it may be deleted, replaced or written by other processes at any time; what stays open would go on in a file that is
no longer there. Raises `sqlite3.Error` where nothing else is said.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, get_args

from reranker_serve.errors import SettingsError
from reranker_serve.telemetry.usage import Amount

Column = Literal["day", "key", "model"]
COLUMNS: tuple[Column, ...] = get_args(Column)
# A day, the label of a key or "" where none is needed, and in `usage` the model.
UsageRow = tuple[str, str, str]
SpentRow = tuple[str, str]

# While another process writes.
_PATIENCE_S = 2.0
# `usage` has what was answered with scores, as replies and `/stats` say it; `spent` what counts against a key's limits
# of a day: failed requests, too, and what callers who hung up had to pay.
_TABLES = """
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, documents INTEGER NOT NULL, tokens INTEGER NOT NULL, search_units INTEGER NOT NULL,
    PRIMARY KEY (day, key, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    day TEXT NOT NULL, key TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (day, key)
) WITHOUT ROWID;
"""
_ADD_USAGE = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, documents = documents + excluded.documents,
    tokens = tokens + excluded.tokens, search_units = search_units + excluded.search_units
"""
_ADD_SPENT = """
INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, tokens = tokens + excluded.tokens
"""


def utc_day(now: float) -> str:
    """The day of a time in seconds since 1970, as the file has it: `2026-11-27`."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def parse_day(text: str) -> str:
    """Raises `ValueError` with what is wrong."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"a day is like {utc_day(time.time())}, not {text!r}") from None


def parse_columns(text: str) -> tuple[Column, ...]:
    """From `key,model`. Raises `ValueError` with what is wrong."""
    wanted = [part.strip() for part in text.split(",")]
    if not set(wanted) <= set(COLUMNS) or len(set(wanted)) < len(wanted):
        raise ValueError(f"usage is told by some of {', '.join(COLUMNS)}, with commas, not by {text!r}")
    return tuple(column for column in COLUMNS if column in wanted)


def add(
    path: Path, usage: Mapping[UsageRow, Amount], spent: Mapping[SpentRow, Amount], today: str
) -> dict[SpentRow, Amount]:
    """Add all of it, or nothing; what all processes together have written as spent since `today`."""
    with _opened(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            _ADD_USAGE,
            [(*row, had.requests, had.documents, had.tokens, had.search_units) for row, had in usage.items()],
        )
        if spent:
            connection.executemany(_ADD_SPENT, [(*row, had.requests, had.tokens) for row, had in spent.items()])
            # A clock that is set back over midnight finds its day as it was.
            connection.execute("DELETE FROM spent WHERE day < DATE(?, '-1 day')", (today,))
        rows = connection.execute("SELECT day, key, requests, tokens FROM spent WHERE day >= ?", (today,)).fetchall()
        connection.execute("COMMIT")
    return {(day, key): Amount(requests=requests, tokens=tokens) for day, key, requests, tokens in rows}


def report(path: Path, since: str, until: str, by: Sequence[Column] = COLUMNS) -> list[dict[str, str | int | None]]:
    """Usage from one day to another, both included: a row for each combination of `by`, and in it the sums."""
    names = ", ".join(by)
    sums = ("requests", "documents", "tokens", "search_units")
    query = (
        f"SELECT {names}, {', '.join(f'SUM({name})' for name in sums)} FROM usage"
        f" WHERE day BETWEEN ? AND ? GROUP BY {names} ORDER BY {names}"
    )
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=_PATIENCE_S, uri=True)) as connection:
        rows = connection.execute(query, (since, until)).fetchall()
    found = [dict(zip((*by, *sums), row, strict=True)) for row in rows]
    return [row | {"key": row["key"] or None} if "key" in row else row for row in found]


def check(path: Path) -> None:
    """Raises `SettingsError` if the file can never be used as it is configured; a full disk or a lock may pass."""
    try:
        with _opened(path):
            return
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY):
            raise SettingsError(
                f"RERANKER_USAGE_FILE={path} cannot be used: {error}; name a file in a folder that can be written"
            ) from None


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    # Write-ahead: who reads keeps nobody from writing, and no loss of power leaves a broken file.
    with closing(sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_TABLES)
        yield connection
