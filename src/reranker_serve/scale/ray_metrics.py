"""A replica's metrics among those of Ray, which each node exports for all processes on it.

A scrape of `/metrics` through a proxy has those of one replica, and the next of another.
"""

from __future__ import annotations

from ray.serve.metrics import Gauge

from reranker_serve.telemetry.metrics import Metrics


class RayMetrics:
    """Under their own names, to which Ray adds `ray_`, and the labels `deployment` and `replica`.

    All are gauges there: a counter of Ray would get another name, and its histograms cannot take what was counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._gauges: dict[str, Gauge] = {}

    def copy(self) -> None:
        for sample in self._metrics.samples():
            if sample.name not in self._gauges:
                self._gauges[sample.name] = Gauge(sample.name, tag_keys=tuple(sample.labels))
            self._gauges[sample.name].set(sample.value, tags=dict(sample.labels))
