"""One local Ray cluster for all these tests, on two cores; ended with them.

`./test.sh --ray` runs them, in an environment that has Ray. RAY_TESTS=short leaves out the long ones.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.server.processes import free_port

# Before ray is imported. Nothing is sent anywhere, and no file is left at home.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

import ray
from ray import serve

from tests.ray.fake import fleet

ROOT = Path(__file__).parents[2]
NAME = "reranker"
# Starting a process takes a second on an idle machine and ten on a busy one.
PATIENCE_S = 120.0

# Ray's choice between its own proxy and HAProxy, which is made when a cluster starts.
HAPROXY = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"

full = pytest.mark.skipif(os.environ.get("RAY_TESTS") == "short", reason="takes long: RAY_TESTS=short")


def until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never came true"
        time.sleep(0.05)


@dataclass(frozen=True)
class Fleet:
    """The application on the cluster, at `url`; each replica left its process number in `pids`."""

    url: str
    pids: Path

    def deploy(self, **how: object) -> None:
        """Deploy, or update what is deployed, and wait until it serves; `how` is as in `fleet`."""
        settings = how.pop("settings", {})
        serve.run(fleet(self.pids, settings, **how), name=NAME)

    def replicas(self) -> set[int]:
        """Processes of replicas that loaded their model and are alive."""
        return {int(path.name) for path in self.pids.iterdir() if _alive(int(path.name))}

    def post(self, body: object, path: str = "/rerank", **how: object) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=PATIENCE_S, **how)

    def metric(self, name: str) -> float:
        """Of one replica, as the proxy chooses it."""
        lines = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def _alive(pid: int) -> bool:
    """Not so if it ended and nobody looked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Cluster:
    """A proxy, Ray's own metrics, and where Ray's tools find it."""

    url: str
    metrics: str
    address: str


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}:{ROOT}"
    port, metrics = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        started = ray.init(
            num_cpus=8,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            _metrics_export_port=metrics,
            _temp_dir=folder,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield Cluster(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics", started["gcs_address"])
        finally:
            serve.shutdown()
            ray.shutdown()


@pytest.fixture
def cluster(ray_cluster: Cluster, tmp_path: Path) -> Iterator[Fleet]:
    yield Fleet(ray_cluster.url, tmp_path)
    serve.delete(NAME)
