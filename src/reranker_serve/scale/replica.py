"""One process of a fleet: the whole application, with its model loaded before anything comes in.

Imports nothing of what runs it; its methods have the names that Ray Serve calls, on the application's event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import FastAPI

from reranker_serve.app import create_app
from reranker_serve.loader import load as load_model
from reranker_serve.process import supervised_process
from reranker_serve.scale.traffic import BUSY, MADE, PACE, WAITING, BehindProxy, Share, Traffic
from reranker_serve.settings import Settings
from reranker_serve.telemetry.logs import configure_logging
from reranker_serve.telemetry.metrics import summed
from reranker_serve.types import Scorer

Load = Callable[[Settings], Scorer]


class Replica:
    """Raises `StartupError` where the model cannot be served: one line, which says what to do.

    The process ends by itself, after its last replies, when its model can compute no more.
    """

    def __init__(self, settings: Settings, load: Load = load_model) -> None:
        configure_logging(settings.log_level, settings.log_format)
        self._settings = settings
        self._scorer = load(settings)
        self._traffic = Traffic()
        self._routed, self._scaled = (Share(time.monotonic()) for _ in range(2))

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._settings, self._scorer, supervised_process())
        app.add_middleware(BehindProxy, traffic=self._traffic, most=self._settings.max_body_bytes)
        self._lifecycle, self._metrics = app.state.lifecycle, app.state.metrics
        return app

    async def check_health(self) -> None:
        """Raises `RuntimeError` with the reason when only another process helps."""
        problem = self._lifecycle.problem()
        if problem is not None and problem.state in ("dead", "failed"):
            raise RuntimeError(problem.reason)

    async def record_routing_stats(self) -> dict[str, float]:
        """What a router goes by."""
        return self._report(self._routed) | {MADE: time.monotonic()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the number of replicas goes by."""
        return self._report(self._scaled)

    def _report(self, share: Share) -> dict[str, float]:
        engine, tokens = self._lifecycle.serving().engine, summed(self._metrics.batch_tokens)
        self._traffic.computed(tokens)
        token = engine.seconds(1)
        return {
            WAITING: engine.queued_seconds,
            PACE: token * self._traffic.tokens_per_byte,
            BUSY: share.look(tokens, token, time.monotonic()),
        }
