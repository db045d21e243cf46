"""Ctrl-C, which a terminal sends to all processes of a group: once and twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.server.processes import CLI, FAKE_SERVER, Server, running

RELOADING = [*CLI, "serve", "--reload"]
UVICORN = [CLI[0], "-m", "uvicorn", "src.main:app", "--app-dir", str(Path(__file__).parents[2])]
BODY = {"query": "blue whale", "documents": [f"the blue whale {number}" for number in range(100)]}


def interrupt(server: Server) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGINT)


def ask(server: Server) -> None:
    with suppress(httpx.TransportError):
        httpx.post(f"{server.url}/rerank", json=BODY, timeout=60)


def until(server: Server, part: str) -> None:
    deadline = time.monotonic() + 30
    while part not in server.output:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.02)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("pause", [0.1, 0.5])
def test_a_second_one_ends_what_is_still_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str, pause: float
) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.5")
    monkeypatch.setenv("BATCH_TOKENS", "16")
    with running(tmp_path, FAKE_SERVER, workers=workers) as server:
        server.wait_ready()
        caller = threading.Thread(target=ask, args=[server])
        caller.start()
        time.sleep(0.5)
        interrupt(server)
        time.sleep(pause)
        interrupt(server)
        server.process.wait(5)
        caller.join(5)
        assert "Traceback" not in server.output


@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_is_a_graceful_stop(tmp_path: Path, workers: str) -> None:
    with running(tmp_path, FAKE_SERVER, workers=workers) as server:
        server.wait_ready()
        interrupt(server)
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.output


@pytest.mark.parametrize("settings", [{"workers": "1"}, {"workers": "2"}, {"reload": "true"}], ids=str)
@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_while_it_starts_two_of_them_leave_no_traceback(
    tmp_path: Path, settings: dict[str, str], seconds: float
) -> None:
    command = RELOADING if settings.pop("reload", None) else [*CLI, "serve"]
    with running(tmp_path, [*command, "--demo"], **settings) as server:
        until(server, "loading")
        time.sleep(seconds)
        interrupt(server)
        time.sleep(0.1)
        interrupt(server)
        server.process.wait(10)
        assert "Traceback" not in server.output


def test_under_uvicorn_two_of_them_leave_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reranker_serve.demo import demo_folder

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    with running(tmp_path, UVICORN, model_path=str(demo_folder())) as server:
        server.wait_ready()
        interrupt(server)
        interrupt(server)
        server.process.wait(10)
        assert "Traceback" not in server.output
