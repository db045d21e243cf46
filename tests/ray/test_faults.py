"""What is lost when processes end, by whatever hand: what they were computing, and no more."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from tests.ray.conftest import HAPROXY, Fleet, full, until

BODY = {"query": "blue whale", "documents": [f"the blue whale number {i}" for i in range(10)]}
LONG = {"query": "blue whale", "documents": [f"the blue whale number {i}" for i in range(500)]}  # 4 s at 1 ms a token


@dataclass
class Load:
    """Callers that post one request after the other; use it as a context."""

    url: str
    callers: int = 6
    outcomes: list[tuple[float, float, str]] = field(default_factory=list)  # begin, end, status or error

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            try:
                what = str(httpx.post(f"{self.url}/rerank", json=BODY, timeout=120).status_code)
            except httpx.TransportError as error:
                what = type(error).__name__
                time.sleep(0.05)
            self.outcomes.append((begin, time.monotonic(), what))

    @property
    def failed(self) -> list[tuple[float, float, str]]:
        return [outcome for outcome in self.outcomes if outcome[2] != "200"]

    def answered(self, more: int = 30) -> None:
        """Wait for so many more good replies."""
        wanted = self._good() + more
        until(lambda: self._good() >= wanted)

    def _good(self) -> int:
        return sum(what == "200" for _, _, what in self.outcomes)


def test_a_killed_replica_takes_only_its_own_requests_and_comes_back(cluster: Fleet) -> None:
    cluster.deploy(replicas=2, token=0.001, settings={"cache_entries": "0"})
    before = cluster.replicas()
    assert len(before) == 2
    with Load(cluster.url) as load:
        load.answered()
        killed = time.monotonic()
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(cluster.replicas()) == 2)
        load.answered()
    assert len(load.failed) <= load.callers
    # HAProxy closes the connection instead of telling.
    assert {what for _, _, what in load.failed} <= ({"ReadError", "RemoteProtocolError"} if HAPROXY else {"500", "503"})
    # Who was on its way to it when it died; nobody who came when that was known.
    assert all(begin < killed + 1 for begin, _, _ in load.failed)


@pytest.mark.parametrize("replicas", [2, pytest.param(1, marks=full)])
def test_a_rolling_update_under_load_loses_nothing(cluster: Fleet, replicas: int) -> None:
    """Where there is one replica, requests wait until the new one is loaded."""
    settings = {"cache_entries": "0"}
    cluster.deploy(replicas=replicas, token=0.001, loading=0.5, settings=settings)
    before = cluster.replicas()
    with Load(cluster.url) as load, ThreadPoolExecutor(1) as callers:
        load.answered()
        long = callers.submit(cluster.post, LONG)
        time.sleep(0.5)
        cluster.deploy(replicas=replicas, token=0.001, loading=0.5, settings={**settings, "max_documents": "11"})
        until(lambda: len(cluster.replicas() - before) == replicas and not cluster.replicas() & before)
        load.answered()
    assert load.failed == []
    assert long.result().status_code == 200


@full
def test_a_replica_whose_device_is_lost_is_replaced(cluster: Fleet) -> None:
    cluster.deploy(replicas=1)
    before = cluster.replicas()
    lost = cluster.post({"query": "a", "documents": ["faultlost"]})
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "30")
    until(lambda: not cluster.replicas() & before and cluster.replicas())
    until(lambda: cluster.post(BODY).status_code == 200)


@full
def test_a_killed_proxy_comes_back(cluster: Fleet) -> None:
    """It knows no path for a moment: what balances between proxies asks `/-/healthz` first."""
    cluster.deploy(replicas=2, token=0.001, settings={"cache_entries": "0"})
    with Load(cluster.url) as load:
        load.answered()
        os.kill(_proxy(), signal.SIGKILL)
        load.answered()
    assert {what for _, _, what in load.failed} <= {"ConnectError", "ReadError", "RemoteProtocolError", "404"}


def _proxy() -> int:
    """The process of this cluster's proxy. Ray names its processes by what they are."""
    (found,) = [child.pid for child in psutil.Process().children(recursive=True) if "ProxyActor" in child.name()]
    return found


@full
def test_replicas_come_with_the_load_and_go_after_it(cluster: Fleet) -> None:
    """Those that load are asked nothing, and nobody waits for more than for what he asked."""
    cluster.deploy(
        replicas=1,
        max_replicas=3,
        target_seconds=1,
        up_delay=1,
        down_delay=5,
        token=0.002,
        loading=2,
        settings={"cache_entries": "0"},
    )
    with Load(cluster.url, callers=30) as load:
        until(lambda: len(cluster.replicas()) == 3)
        load.answered()
    with Load(cluster.url, callers=1) as after:
        until(lambda: len(cluster.replicas()) == 1)
        after.answered(3)
    assert (load.failed, after.failed) == ([], [])


@full
def test_none_is_there_when_nobody_asks_and_the_first_request_waits_for_one(cluster: Fleet) -> None:
    cluster.deploy(replicas=0, max_replicas=2, down_delay=1, to_zero_delay=2, up_delay=0)
    until(lambda: not cluster.replicas())
    assert cluster.post(BODY).status_code == 200
    until(lambda: not cluster.replicas())
