"""`reranker-serve usage`: who had how much, from the file that servers write with RERANKER_USAGE_FILE."""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from reranker_serve.errors import SettingsError
from reranker_serve.settings import Settings
from reranker_serve.telemetry.usage_file import COLUMNS, parse_columns, parse_day, report, utc_day

_NO_KEY = "(no key)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", type=_or_said(parse_day), metavar="DAY", help="first day (default: of this month)")
    parser.add_argument("--until", type=_or_said(parse_day), metavar="DAY", help="last day (default: today)")
    parser.add_argument(
        "--by",
        type=_or_said(parse_columns),
        default=COLUMNS,
        metavar="COLUMNS",
        help=f"a row for each of these, with commas (default: {','.join(COLUMNS)})",
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    if settings.usage_file is None:
        raise SettingsError("set RERANKER_USAGE_FILE, or --usage-file, to the file that the server writes")
    path = settings.usage_file.expanduser()
    if not path.is_file():
        raise SettingsError(f"{path} is not there: a server writes it where RERANKER_USAGE_FILE names it")
    today = utc_day(time.time())
    since, until = arguments.since or f"{today[:-2]}01", arguments.until or today
    try:
        rows = report(path, since, until, arguments.by)
    except sqlite3.Error as error:
        hint = "; SQLite writes beside what it reads: copy the file to a folder of yours" if _is_closed(error) else ""
        raise SettingsError(f"{path} cannot be read as a file of usage: {error}{hint}") from None
    print(json.dumps(rows, indent=2) if arguments.json else table(rows) or f"no usage from {since} to {until}")
    return 0


def _is_closed(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Aligned columns with a head; numbers to the right. Empty without rows."""
    if not rows:
        return ""
    names = list(rows[0])
    shown = [names, *([_shown(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in shown) for place in range(len(names))]
    align = [str.rjust if isinstance(rows[0][name], int) else str.ljust for name in names]
    return "\n".join(
        "  ".join(each(text, width) for each, text, width in zip(align, line, widths, strict=True)).rstrip()
        for line in shown
    )


def _shown(value: str | int | None) -> str:
    return _NO_KEY if value is None else f"{value:,}" if isinstance(value, int) else value


def _or_said(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """As argparse wants it, so that it prints what is wrong."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed
