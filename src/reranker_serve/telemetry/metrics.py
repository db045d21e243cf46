"""Every metric, declared once. One instance an application; nothing global.

With several workers `PROMETHEUS_MULTIPROC_DIR` is set before this module is imported; values
then live in files of that folder and `render` sums over all workers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKENS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "reranker_requests",
            "Rerank requests answered, by dialect and status.",
            ["dialect", "status"],
            registry=registry,
        )
        self.errors = Counter(
            "reranker_errors", "Requests answered with an error, by its kind.", ["kind"], registry=registry
        )
        self.pairs = Counter("reranker_pairs", "Documents scored, and sentences read as such.", registry=registry)
        self.tokens = Counter("reranker_tokens", "Tokens the model read.", registry=registry)
        self.cache_hits = Counter(
            "reranker_cache_hits", "Distinct pairs of a request that were not computed for it.", registry=registry
        )
        self.cache_misses = Counter("reranker_cache_misses", "Pairs that were not in the cache.", registry=registry)
        self.queue_tokens = Gauge(
            "reranker_queue_tokens",
            "Tokens admitted and not yet computed.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.waiting_seconds = Gauge(
            "reranker_waiting_seconds",
            "Seconds of computing that wait, by the measured rate.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "reranker_queue_seconds",
            "Time from admission to the first forward pass.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "reranker_inference_seconds",
            "Time from a request's first forward pass to its last.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_seconds = Histogram(
            "reranker_request_seconds", "Whole time of a rerank request.", buckets=_SECONDS, registry=registry
        )
        self.batch_tokens = Histogram(
            "reranker_batch_tokens", "Tokens in one forward pass.", ["device"], buckets=_TOKENS, registry=registry
        )
        self.lane_up = Gauge(
            "reranker_lane_up",
            "1 while the device computes, 0 when it is lost.",
            ["device"],
            multiprocess_mode="livemin",
            registry=registry,
        )

    def lanes(self, devices: Sequence[str]) -> None:
        """These devices compute."""
        for device in devices:
            self.batch_tokens.labels(device)
            self.lane_up.labels(device).set(1)

    def batch(self, tokens: int, device: str) -> None:
        """A forward pass is done."""
        self.batch_tokens.labels(device).observe(tokens)

    def lane_lost(self, device: str, reason: str) -> None:
        self.lane_up.labels(device).set(0)

    def render(self) -> bytes:
        """The Prometheus text format; with several workers, the sum of all."""
        folder = os.environ.get(MULTIPROCESS_DIR)
        if not folder:
            return generate_latest(self._registry)
        _forget_dead_workers(Path(folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)
        return generate_latest(registry)


def counted(counter: Counter) -> int:
    """What this process alone has counted; `counter` is one without labels."""
    return int(next(sample.value for metric in counter.collect() for sample in metric.samples))


def _forget_dead_workers(folder: Path) -> None:
    """Gauges of a worker that crashed must not count for ever."""
    for path in folder.glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", path.name)
        if found and not _alive(int(found[1])):
            mark_process_dead(int(found[1]), str(folder))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
