"""From loading to draining: whether requests can be answered now, and if not, why."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reranker_serve.errors import NotReady, StartupError
from reranker_serve.loader import load
from reranker_serve.service import Reranker
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import Scorer

logger = logging.getLogger(__name__)

State = Literal["loading", "draining", "dead", "failed"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why requests are not answered; `dead` and `failed` need a restart."""

    state: State
    reason: str


class Lifecycle:
    """Loads the model beside the running server, and drains it at the end."""

    def __init__(self, settings: Settings, metrics: Metrics, tracing: Tracing, on_failure: Callable[[], None]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._on_failure = on_failure
        self._problem: Problem | None = Problem("loading", "the model is being loaded")
        self._reranker: Reranker | None = None

    def problem(self) -> Problem | None:
        """None when requests are answered."""
        if self._problem is None and self._reranker is not None and self._reranker.engine.death:
            return Problem("dead", self._reranker.engine.death)
        return self._problem

    def serving(self) -> Reranker:
        """The loaded model. Raises `NotReady` before, and after draining."""
        if self._reranker is None or self._problem is not None:
            problem = self._problem
            raise NotReady(problem.reason if problem else "the server is not ready", retry_after=5)
        return self._reranker

    def start(self, scorer: Scorer | None) -> None:
        """Serve `scorer` at once, or load what the settings name on a thread of its own."""
        if scorer is not None:
            self._serve(scorer)
            return
        loop = asyncio.get_running_loop()
        # A daemon: a stop while gigabytes are being fetched must not wait for them.
        threading.Thread(target=self._load, args=(loop,), name="loader", daemon=True).start()

    async def drain(self) -> None:
        """Finish what was admitted."""
        self._problem = Problem("draining", "the server is shutting down")
        if self._reranker is not None:
            await asyncio.to_thread(self._reranker.close)

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            scorer = load(self._settings)
        except StartupError as error:
            self._fail(str(error))
        except Exception as error:  # a bug in loading must not leave a server that loads for ever
            logger.debug("loading failed", exc_info=error)
            self._fail(f"loading the model failed: {type(error).__name__}: {error}")
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: stopped while loading
                loop.call_soon_threadsafe(self._serve, scorer)

    def _fail(self, reason: str) -> None:
        logger.critical("%s", reason)
        self._problem = Problem("failed", reason)
        self._on_failure()

    def _serve(self, scorer: Scorer) -> None:
        if self._problem is None or self._problem.state != "loading":
            return
        self._reranker = Reranker(scorer, self._settings, self._metrics, self._tracing)
        self._problem = None
        backend = scorer.backend
        logger.info(
            "ready: %s (%s) on %s, %s, %s attention",
            scorer.info.name,
            scorer.family.name,
            backend.device,
            backend.dtype,
            backend.attention,
        )
