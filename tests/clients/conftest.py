"""Real servers for real clients. The clients have an environment of their own; the server has the project's.

RERANKER_SERVER_PYTHON: the interpreter that runs the server, `.venv/bin/python` by default.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("RERANKER_SERVER_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
KEY = "local"


@contextmanager
def serving(folder: Path, *command: str, **environ: str) -> Iterator[str]:
    """A server process on a free port of loopback, ready; gives its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    settings = {"RERANKER_HOST": "127.0.0.1", "RERANKER_PORT": str(port), "RERANKER_API_KEY": KEY}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RERANKER_")}
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PYTHON, *command], cwd=folder, env=kept | settings | environ, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 120
        while not ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo model, behind a key."""
    with serving(tmp_path_factory.mktemp("demo"), "-m", "reranker_serve", "serve", "--demo") as url:
        yield url


@pytest.fixture(scope="session")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo model, without keys."""
    folder = tmp_path_factory.mktemp("open")
    with serving(folder, "-m", "reranker_serve", "serve", "--demo", RERANKER_API_KEY="") as url:
        yield url


@pytest.fixture(scope="session")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo model, for which no document is relevant enough."""
    folder = tmp_path_factory.mktemp("strict")
    with serving(folder, "-m", "reranker_serve", "serve", "--demo", RERANKER_MIN_SCORE="1") as url:
        yield url


@pytest.fixture(scope="session")
def full_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose model is busy for an hour and whose queue is full."""
    script = str(ROOT / "tests" / "server" / "fake_server.py")
    settings = {"SECONDS_PER_BATCH": "3600", "BATCH_TOKENS": "8", "RERANKER_MAX_QUEUE_TOKENS": "105"}
    settings["RERANKER_REQUEST_TIMEOUT"] = "3600"
    settings["RERANKER_MODEL_NAME"] = "sentence-transformers/all-MiniLM-L6-v2"
    with serving(tmp_path_factory.mktemp("full"), script, **settings) as url:
        waiting = [post_and_leave(url, [f"{word} " * 50]) for word in ("one", "two")]  # equal ones would be shared
        metrics = {"Authorization": f"Bearer {KEY}"}
        deadline = time.monotonic() + 30
        while "reranker_queue_tokens 52.0" not in (page := httpx.get(f"{url}/metrics", headers=metrics).text):
            assert time.monotonic() < deadline, page
            time.sleep(0.05)
        yield url
        for connection in waiting:
            connection.close()


def post_and_leave(url: str, documents: list[str]) -> socket.socket:
    """Send a request and do not wait for its reply."""
    body = json.dumps({"query": "a", "documents": documents}).encode()
    head = f"POST /rerank HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0))
    connection.sendall(head.encode() + body)
    time.sleep(0.3)  # in order: the first goes to the model, the second waits
    return connection
