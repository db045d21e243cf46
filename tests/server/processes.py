"""Real servers for tests: `reranker-serve` in a process of its own, on a free port of loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

CLI = [sys.executable, "-m", "reranker_serve"]
FAKE_SERVER = [sys.executable, str(Path(__file__).parent / "fake_server.py")]


class Server:
    """A running server process; its output is collected in a file."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output
            try:
                if httpx.get(f"{self.url}/ready", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s: {self.output}")

    def terminate(self, seconds: float = 30) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without RERANKER_ names, and with `settings` as RERANKER_ names.

    Without a port among them it is a free one: another program may hold the default.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RERANKER_")}
    given = {"port": str(free_port())} | settings
    return kept | {f"RERANKER_{name.upper()}": value for name, value in given.items()}


@contextmanager
def running(folder: Path, command: Sequence[str], **settings: str) -> Iterator[Server]:
    """Run `command` in `folder` until the block ends."""
    port = free_port()
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(host="127.0.0.1", port=str(port), **settings) | {"UVICORN_PORT": str(port)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Server(process, f"http://127.0.0.1:{port}", log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def metric(url: str, name: str) -> float:
    """The sum of a metric's samples, over all labels, from /metrics."""
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    values = [line.rsplit(" ", 1) for line in lines if line.split("{")[0].split(" ")[0] == name]
    assert values, f"no metric {name}"
    return sum(float(value) for _, value in values)
