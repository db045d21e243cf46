"""What callers see through Ray's proxy is what they see without it."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.record_golden import CHANGING
from tests.ray.conftest import HAPROXY, Cluster, Fleet, full, until

GOLDEN = [json.loads(path.read_text()) for path in sorted((Path(__file__).parents[1] / "api/golden").glob("*.json"))]
KEY = "local"


def documents(count: int) -> dict[str, object]:
    return {"query": "blue whale", "documents": [f"the blue whale number {i}" for i in range(count)]}


def test_all_dialects_keys_errors_and_metrics_are_as_without_ray(cluster: Fleet) -> None:
    cluster.deploy(replicas=2, settings={"max_documents": "20", "api_key": KEY})
    with httpx.Client(base_url=cluster.url, timeout=60) as client:
        for case in GOLDEN:
            headers = {"Authorization": f"Bearer {KEY}", **case.get("headers", {})}
            reply = client.post(case["path"], json=case["request"], headers=headers)
            body = reply.json()
            if isinstance(body, dict):
                body = {name: value for name, value in body.items() if name not in CHANGING}
            assert (reply.status_code, body) == (case["status"], case["reply"]), case["path"]
        assert client.post("/v2/rerank", json=documents(2)).status_code == 401
        key = {"Authorization": f"Bearer {KEY}"}
        assert client.post("/nowhere", json={}, headers=key).json()["error"]["type"] == "not_found_error"
        assert client.get("/rerank", headers=key).status_code == 405
        assert "reranker_requests_total" in client.get("/metrics", headers=key).text
        assert client.get("/ready").json() == {"status": "ready"}
        named = client.post("/rerank", json=documents(1), headers={"X-Request-ID": "mine", **key})
        assert named.headers.get_list("x-request-id") == ["mine"]


def test_too_much_is_answered_with_429_and_the_computed_time_to_come_again(cluster: Fleet) -> None:
    """Never with Ray's own 503, however many requests wait."""
    cluster.deploy(replicas=2, token=0.002, settings={"max_queue_seconds": "2", "cache_entries": "0"})
    with ThreadPoolExecutor(30) as callers:  # each asks for 4.8 s of work
        replies = list(callers.map(lambda _: cluster.post(documents(300)), range(30)))
    assert {reply.status_code for reply in replies} == {200, 429}
    refused = [reply for reply in replies if reply.status_code == 429]
    assert all("the server is overloaded" in reply.json()["error"]["message"] for reply in refused)
    waits = [int(reply.headers["retry-after"]) for reply in refused]
    assert min(waits) >= 1
    assert max(waits) > 2, "what waits before it, less the two seconds that may"


def test_documents_of_a_client_that_went_away_are_not_computed(cluster: Fleet) -> None:
    cluster.deploy(replicas=1, token=0.005)
    host, port = urlsplit(cluster.url).netloc.split(":")
    body = json.dumps(documents(100)).encode()
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /rerank HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        until(lambda: cluster.metric("reranker_batch_tokens_count") >= 1)
    until(lambda: cluster.metric("reranker_queue_tokens") == 0)
    time.sleep(1.5)  # a pass takes 1.3 s
    assert 0 < cluster.metric("reranker_batch_tokens_sum") < 100 * 8 * 0.8
    assert cluster.post(documents(2)).status_code == 200


@pytest.mark.skipif(HAPROXY, reason="HAProxy counts connections")
def test_small_requests_do_not_go_where_a_large_one_is_computed(cluster: Fleet) -> None:
    """A router that counts requests would send half of them there."""
    cluster.deploy(replicas=2, token=0.001, named=True, settings={"cache_entries": "0"})
    until(lambda: len({cluster.post(documents(1)).json()["model"] for _ in range(4)}) == 2)
    with ThreadPoolExecutor(1) as callers:
        large = callers.submit(cluster.post, documents(600))
        time.sleep(0.5)
        small = []
        while not large.done():
            small.append(cluster.post(documents(3)).json()["model"])
    assert len(small) >= 5
    assert large.result().json()["model"] not in small[:-1]  # it may have been done by the last


@full
def test_the_metrics_of_each_replica_are_among_those_of_ray(cluster: Fleet, ray_cluster: Cluster) -> None:
    cluster.deploy(replicas=2)
    asked = 20
    for _ in range(asked):
        assert cluster.post(documents(2)).status_code == 200

    def counted() -> list[float]:
        """Requests of each replica."""
        lines = httpx.get(ray_cluster.metrics, timeout=60).text.splitlines()
        found = [line for line in lines if line.startswith("ray_reranker_requests_total{")]
        assert all('deployment="Reranker"' in line and 'replica="' in line for line in found)
        return [float(line.rsplit(" ", 1)[1]) for line in found]

    until(lambda: sum(counted()) == asked)
    assert len(counted()) == 2
