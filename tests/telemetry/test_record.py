"""Usage in a file: written beside replies, by several at once, and never at their cost."""

from __future__ import annotations

import logging
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from reranker_serve.errors import SettingsError
from reranker_serve.telemetry import record as module
from reranker_serve.telemetry import usage_file
from reranker_serve.telemetry.record import Record
from reranker_serve.telemetry.usage import Amount
from reranker_serve.telemetry.usage_file import parse_columns, parse_day, report, utc_day

DAY = 86_400
NOON = 20_000 * DAY + DAY / 2
ONE = Amount(requests=1, documents=10, tokens=100, search_units=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.02)
    monkeypatch.setattr(usage_file, "_PATIENCE_S", 0.05)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never came true"
        time.sleep(0.01)


def everything(path: Path) -> list[dict[str, str | int | None]]:
    return report(path, "0001-01-01", "9999-12-31")


def requests(path: Path) -> int:
    return sum(int(row["requests"] or 0) for row in everything(path))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_usage_is_summed_by_day_key_and_model(path: Path) -> None:
    now = [NOON]
    record = Record(path, clock=lambda: now[0])
    record.count("team-a", "small", ONE)
    record.count("team-a", "small", ONE)
    record.count("team-a", "large", ONE)
    record.count(None, "small", ONE)
    now[0] += DAY
    record.count("team-a", "small", Amount(1, 1, 1, 1))
    record.close()
    first, second = utc_day(NOON), utc_day(NOON + DAY)
    whole = {"requests": 1, "documents": 10, "tokens": 100, "search_units": 2}
    assert everything(path) == [
        {"day": first, "key": None, "model": "small"} | whole,
        {"day": first, "key": "team-a", "model": "large"} | whole,
        {"day": first, "key": "team-a", "model": "small", "requests": 2, "documents": 20, "tokens": 200}
        | {"search_units": 4},
        {"day": second, "key": "team-a", "model": "small", "requests": 1, "documents": 1, "tokens": 1}
        | {"search_units": 1},
    ]
    assert report(path, second, second, ("key",)) == [
        {"key": "team-a", "requests": 1, "documents": 1, "tokens": 1, "search_units": 1}
    ]
    assert [row["day"] for row in report(path, first, first, ("day", "model"))] == [first, first]


def test_what_is_counted_is_in_the_file_soon_and_not_only_at_the_end(path: Path) -> None:
    record = Record(path)
    record.count("a", "m", ONE)
    until(lambda: requests(path) == 1)
    record.count("a", "m", ONE)
    until(lambda: requests(path) == 2)
    record.close()
    assert requests(path) == 2


def test_an_application_that_is_only_built_has_no_thread(path: Path) -> None:
    before = threading.active_count()
    record = Record(path)
    assert threading.active_count() == before
    record.close()


def test_a_locked_file_costs_no_waiting_and_one_line_of_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    record = Record(path)
    with locked(path):
        start = time.monotonic()
        for _ in range(100):
            record.count("a", "m", ONE)
            record.charge("a", time.time(), 1, 5)
            record.of("a", time.time())
        assert time.monotonic() - start < 1  # each would wait a twentieth of a second for the lock
        until(lambda: bool(caplog.messages))
        for _ in range(50):  # while it is tried several times
            record.count("a", "m", ONE)
            record.charge("a", time.time(), 1, 5)
            time.sleep(0.005)
        assert record.of("a", time.time())[1:] == (150, 750)
    until(lambda: len(caplog.messages) > 1)
    record.close()
    lost, back = caplog.messages
    assert lost == f"usage cannot be written to {path} and is kept in memory: database is locked"
    assert back == f"usage is written to {path} again"
    assert requests(path) == 150


def test_what_is_lost_at_the_end_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = Record(path)
    with locked(path):
        record.count("a", "m", ONE)
        record.count("b", "m", ONE)
        record.close()
    assert caplog.messages[-1] == f"the usage of 2 request(s) is lost: {path} could not be written"
    assert everything(path) == []


@pytest.mark.parametrize("also", ["", "-wal"])
def test_a_deleted_file_is_made_again(path: Path, also: str) -> None:
    record = Record(path)
    record.count("a", "m", ONE)
    until(lambda: requests(path) == 1)
    path.unlink()
    Path(f"{path}{also}").unlink(missing_ok=True)
    record.count("b", "m", ONE)
    record.close()
    assert [row["key"] for row in everything(path)] == ["b"]


def test_a_folder_that_goes_away_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "disk" / "usage.db"
    path.parent.mkdir()
    record = Record(path)
    path.parent.rename(tmp_path / "away")
    record.count("a", "m", ONE)
    until(lambda: bool(caplog.messages))
    (tmp_path / "away").rename(path.parent)
    until(lambda: requests(path) == 1)
    record.close()


def test_a_full_disk_costs_nothing_but_a_line_of_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = Record(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        record.count("a", "m", ONE)
        until(lambda: bool(caplog.messages))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    until(lambda: requests(path) == 1)
    record.close()


def test_what_waits_for_a_disk_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 50)
    record = Record(path)
    with locked(path):
        for number in range(200):
            record.count(f"key {number}", "m", ONE)
            record.count("key 0", "m", ONE)
        time.sleep(0.2)
    record.close()
    assert len(everything(path)) <= 100  # those that were being written, and those that came meanwhile
    assert next(row["requests"] for row in everything(path) if row["key"] == "key 0") == 201


WRITER = """
import sys, time
from pathlib import Path
from reranker_serve.telemetry import record as module
from reranker_serve.telemetry.usage import Amount
module._EVERY_S = 0.001
record = module.Record(Path(sys.argv[1]))
for number in range(500):
    record.count(f"key {number % 3}", "m", Amount(1, 1, 1, 1))
    record.charge("shared", time.time(), 1, 1)
    time.sleep(0.0005)
record.close()
"""


def test_several_processes_write_one_file_and_no_count_is_lost(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stderr=subprocess.PIPE) for _ in range(4)]
    said = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, said
    assert requests(path) == 2000
    record = Record(path)
    assert record.of("shared", time.time())[1:] == (2000, 2000)
    record.close()


def test_days_of_a_key_outlive_the_process_and_are_counted_by_all_together(path: Path) -> None:
    one, other = Record(path, clock=lambda: NOON), Record(path, clock=lambda: NOON)
    one.charge("a", NOON, requests=1, tokens=7)
    one.charge("b", NOON, requests=1)
    assert one.of("a", NOON) == (20_001 * DAY, 1, 7)  # at once
    until(lambda: other.of("a", NOON)[1:] == (1, 7))
    other.charge("a", NOON, tokens=5)
    until(lambda: one.of("a", NOON)[1:] == (1, 12))
    one.close()
    other.close()
    after = Record(path, clock=lambda: NOON)
    assert after.of("a", NOON)[1:] == (1, 12)
    assert after.of("a", NOON + DAY) == (20_002 * DAY, 0, 0)
    after.close()


def test_days_that_are_over_leave_the_file(path: Path) -> None:
    record = Record(path, clock=lambda: NOON)
    record.charge("a", NOON, requests=1)
    record.close()
    record = Record(path, clock=lambda: NOON + 2 * DAY)
    record.charge("b", NOON + 2 * DAY, requests=1)
    record.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT key FROM spent").fetchall() == [("b",)]


def test_a_clock_that_is_set_back_over_midnight_gives_nobody_the_day_again(path: Path) -> None:
    midnight = 20_001 * DAY
    for now in (midnight - 2, midnight + 1):
        record = Record(path, clock=lambda now=now: now)  # type: ignore[misc]
        record.charge("a", now, requests=1, tokens=7)
        record.close()
    record = Record(path, clock=lambda: midnight - 1)
    assert record.of("a", midnight - 1)[1:] == (1, 7)
    assert record.of("a", midnight + 1)[1:] == (1, 7)
    record.close()


@pytest.mark.parametrize("kind", ["no folder", "a folder", "no database"])
def test_a_file_that_can_never_be_used_is_one_line_at_the_start(kind: str, path: Path) -> None:
    if kind == "no folder":
        path = path / "below" / "usage.db"
    elif kind == "a folder":
        path.mkdir()
    else:
        path.write_text("something else, and long enough to be no empty file: " * 100)
    with pytest.raises(SettingsError, match=r"^RERANKER_USAGE_FILE=\S+ cannot be used: .+; name a file in a folder"):
        Record(path)


def test_a_locked_file_keeps_nobody_from_starting(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Record(path).close()
    with locked(path):
        record = Record(path)
        record.count("a", "m", ONE)
    record.close()
    assert "database is locked" in caplog.text
    assert requests(path) == 1


def test_days_and_columns_are_read_as_they_are_written() -> None:
    assert parse_day("2026-11-01") == "2026-11-01"
    assert parse_columns("model, day") == ("day", "model")
    for wrong in ("yesterday", "2026-13-01", ""):
        with pytest.raises(ValueError, match="a day is like 20"):
            parse_day(wrong)
    for wrong in ("", "day,day", "requests", "key;DROP"):
        with pytest.raises(ValueError, match="by some of day, key, model"):
            parse_columns(wrong)
