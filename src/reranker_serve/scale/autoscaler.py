"""How many replicas Ray Serve keeps, by seconds of waiting work instead of by requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.serve.config import AutoscalingContext

from reranker_serve.scale.policy import Report, Scaling
from reranker_serve.scale.traffic import BUSY, WAITING


class WaitingSecondsPolicy:
    """Called by Ray's controller ten times a second. `scaling` are the arguments of `Scaling`, which has the delays:
    those of Ray's own settings are 0 beside it. `clock` must not be one that can be set back, as Ray's can.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, **scaling: Any) -> None:
        self._clock = clock
        self._scaling = Scaling(**scaling)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        told = context.raw_metrics or {}
        waiting, busy = told.get(WAITING, {}), told.get(BUSY, {})
        reports = [
            Report(series[-1].timestamp, series[-1].value, busy=busy[replica][-1].value)
            for replica, series in waiting.items()
            if series and busy.get(replica)
        ]
        pending = 0 if context.current_num_replicas else round(context.total_num_requests)
        return self._scaling.desired(reports, context.target_num_replicas, self._clock(), pending), {}
