"""Usage and budgets of real servers: over restarts, kills, several workers and a full disk; and the command."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reranker_serve.telemetry.usage_file import report
from tests.server.processes import CLI, FAKE_SERVER, Server, environment, running

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}


def ask(server: Server, key: str = "a") -> httpx.Response:
    return httpx.post(f"{server.url}/rerank", json=GOOD, headers={"X-Api-Key": key}, timeout=10)


def requests(path: Path) -> int:
    return sum(int(row["requests"] or 0) for row in report(path, "0001-01-01", "9999-12-31"))


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never came true"
        time.sleep(0.02)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text("team-a: a 6 requests a day\nteam-b: b\n")
    return str(path)


def test_usage_and_the_budget_of_a_day_survive_restarts_and_kills(tmp_path: Path, keys: str) -> None:
    file = tmp_path / "usage.db"
    settings = {"model_name": "fake", "api_key_file": keys, "usage_file": str(file), "drain_delay": "0"}
    with running(tmp_path, FAKE_SERVER, **settings) as server:
        server.wait_ready()
        assert [ask(server).status_code for _ in range(2)] == [200, 200]
        assert server.terminate() == 0  # at once: what was answered is in the file all the same
    assert requests(file) == 2
    with running(tmp_path, FAKE_SERVER, **settings) as server:
        server.wait_ready()
        reply = ask(server)
        assert reply.headers["x-ratelimit-remaining-requests"] == "3"
        time.sleep(1.5)
        assert ask(server).status_code == 200
        server.process.kill()
        server.process.wait()
    assert 3 <= requests(file) <= 4  # at most the last second is lost
    with running(tmp_path, FAKE_SERVER, **settings) as server:
        server.wait_ready()
        replies = [ask(server) for _ in range(4)]
        assert [reply.status_code for reply in replies[:2]] == [200, 200]
        assert replies[-1].status_code == 429
        assert "6 requests a day; retry in" in replies[-1].text
        assert ask(server, "b").status_code == 200


def test_workers_share_the_budget_of_a_day_by_the_file(tmp_path: Path, keys: str) -> None:
    Path(keys).write_text("team-a: a 40 requests a day\n")
    file = tmp_path / "usage.db"
    with running(tmp_path, FAKE_SERVER, workers="2", api_key_file=keys, usage_file=str(file)) as server:
        server.wait_ready()
        until(lambda: server.output.count("ready:") == 2, 30)
        statuses = []
        for _ in range(60):  # each by a connection of its own, so now by one worker and now by the other
            statuses.append(ask(server).status_code)
            time.sleep(0.05)
        assert server.terminate() == 0
    # What the other has done is known a second later.
    assert 40 <= statuses.count(200) <= 60
    assert statuses[-1] == 429
    assert requests(file) == statuses.count(200)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as full, contextlib.suppress(OSError):
        while True:
            full.write(b"x" * 512)


def test_a_full_disk_costs_the_record_and_no_reply(tmp_path: Path, small_disk: Path) -> None:
    file, filling = small_disk / "usage.db", small_disk / "filling"
    with running(tmp_path, FAKE_SERVER, model_name="fake", usage_file=str(file), drain_delay="0") as server:
        server.wait_ready()
        ask(server)
        until(lambda: requests(file) == 1)
        fill(filling)
        assert [ask(server).status_code for _ in range(20)] == [200] * 20
        until(lambda: "usage cannot be written" in server.output)
        time.sleep(2.5)
        assert server.output.count("usage cannot be written") == 1
        assert "Traceback" not in server.output
        filling.unlink()
        until(lambda: requests(file) == 21)
        assert server.terminate() == 0


def usage(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "usage", *arguments]
    return subprocess.run(command, env=environment(**settings), capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    from reranker_serve.telemetry.record import Record
    from reranker_serve.telemetry.usage import Amount

    path = tmp_path / "usage.db"
    for day in (20_000, 20_001):
        record = Record(path, clock=lambda day=day: day * 86_400.0)
        record.count("team-a", "a/model", Amount(1000, 20_000, 3_000_000, 1000))
        record.count(None, "a/model", Amount(1, 2, 3, 1))
        record.close()
    return path


def test_the_command_tells_who_had_how_much(filled: Path) -> None:
    done = usage("--since", "2024-10-04", "--until", "2024-10-04", usage_file=str(filled))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "day         key       model    requests  documents     tokens  search_units",
        "2024-10-04  (no key)  a/model         1          2          3             1",
        "2024-10-04  team-a    a/model     1,000     20,000  3,000,000         1,000",
    ]
    rows: list[dict[str, Any]] = json.loads(
        usage("--since", "2024-01-01", "--by", "key", "--json", "--usage-file", str(filled)).stdout
    )
    assert rows == [
        {"key": None, "requests": 2, "documents": 4, "tokens": 6, "search_units": 2},
        {"key": "team-a", "requests": 2000, "documents": 40_000, "tokens": 6_000_000, "search_units": 2000},
    ]
    assert "no usage from 20" in usage(usage_file=str(filled)).stdout  # of this month
    assert json.loads(usage("--json", usage_file=str(filled)).stdout) == []


def test_what_the_command_cannot_read_is_one_line(filled: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"nothing" * 1000)
    for settings, said in (
        ({}, "error: set RERANKER_USAGE_FILE"),
        ({"usage_file": str(tmp_path / "none")}, f"error: {tmp_path / 'none'} is not there"),
        ({"usage_file": str(broken)}, "cannot be read as a file of usage: file is not a database"),
    ):
        done = usage(**settings)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert said in done.stderr
    filled.with_name(f"{filled.name}-wal").mkdir()  # as in a folder that may not be written
    closed = usage(usage_file=str(filled))
    assert (closed.returncode, closed.stderr.count("\n")) == (1, 1)
    assert "unable to open database file; SQLite writes beside what it reads: copy the file to" in closed.stderr
    wrong = usage("--since", "yesterday", usage_file=str(filled))
    assert wrong.returncode == 2
    assert "argument --since: a day is like 20" in wrong.stderr
    assert not (tmp_path / "none").exists()


def test_a_file_that_cannot_be_used_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, usage_file=str(tmp_path / "none" / "usage.db")) as server:
        assert server.process.wait(30) == 1
        assert server.output.startswith(f"error: RERANKER_USAGE_FILE={tmp_path}/none/usage.db cannot be used: ")
        assert server.output.count("\n") == 1
