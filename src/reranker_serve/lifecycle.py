"""From loading to draining: whether requests can be answered now, and if not, why."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from reranker_serve.calibration import Calibration
from reranker_serve.errors import NotReady, StartupError
from reranker_serve.loader import load
from reranker_serve.service import Reranker
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import Scorer

logger = logging.getLogger(__name__)

State = Literal["loading", "draining", "dead", "failed"]


def _nothing() -> None:
    return None


def _no_signals(lifecycle: Lifecycle) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class Process:
    """What the process around the application does for it; nothing, when it runs inside another program.

    `on_failure` is called, on the loading thread, when the model cannot be loaded; `on_death`,
    on any thread, when it will compute no more; `on_ready` when it is loaded. `signals` is
    entered on the event loop while the application runs. With `load_first` nothing is accepted
    before the model is loaded.
    """

    on_failure: Callable[[], None] = _nothing
    on_death: Callable[[], None] = _nothing
    signals: Callable[[Lifecycle], AbstractContextManager[None]] = _no_signals
    load_first: bool = False
    on_ready: Callable[[], None] = _nothing


DETACHED = Process()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why requests are not answered; `dead` and `failed` need a restart."""

    state: State
    reason: str


_DRAINING = Problem("draining", "the server is shutting down")


class Lifecycle:
    """Loads the model beside the running server, and drains it at the end."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing,
        process: Process,
        calibration: Calibration | None = None,
    ) -> None:
        self._settings = settings
        self._calibration = calibration
        self._metrics = metrics
        self._tracing = tracing
        self._process = process
        self._problem: Problem | None = Problem("loading", "the model is being loaded")
        self._reranker: Reranker | None = None
        self._settled = asyncio.Event()  # loaded, or told to stop
        self._drain_until: float | None = None

    def problem(self) -> Problem | None:
        """None when callers should come here."""
        if self._problem is None and self._reranker is not None and self._reranker.engine.death:
            return Problem("dead", self._reranker.engine.death)
        if self._problem is None and self.leaving:
            return _DRAINING
        return self._problem

    @property
    def leaving(self) -> bool:
        """True from the moment the server was told to stop; requests are answered for a while yet."""
        return self._drain_until is not None

    def serving(self) -> Reranker:
        """The loaded model. Raises `NotReady` before, and after draining."""
        if self._reranker is None or self._problem is not None:
            problem = self._problem
            raise NotReady(problem.reason if problem else "the server is not ready", retry_after=5)
        return self._reranker

    @asynccontextmanager
    async def running(self, scorer: Scorer | None) -> AsyncIterator[None]:
        """Serve `scorer` at once, or load what the settings name on a thread of its own; drain at the end."""
        with self._process.signals(self):
            if scorer is not None:
                self._serve(scorer)
            else:
                # A daemon: a stop while gigabytes are being fetched must not wait for them.
                loop = asyncio.get_running_loop()
                threading.Thread(target=self._load, args=(loop,), name="loader", daemon=True).start()
                if self._process.load_first:
                    await self._settled.wait()
            yield
            await self._drain()

    async def leave(self, stop: Callable[[], None]) -> None:
        """Say in `/ready` that the server goes, call `stop` after the delay, and drop what is left at the end."""
        settings = self._settings
        self._settled.set()
        self._drain_until = time.monotonic() + settings.drain_timeout
        if self.problem() is _DRAINING:
            await asyncio.sleep(min(settings.drain_delay, settings.drain_timeout))
        stop()
        await asyncio.sleep(self._drain_seconds())
        if self._reranker is not None:
            self._report(self._reranker.engine.abandon())

    async def _drain(self) -> None:
        """Finish what was admitted."""
        if self._drain_until is None:
            self._drain_until = time.monotonic() + self._settings.drain_timeout
        self._problem = _DRAINING
        if self._reranker is not None:
            self._report(await asyncio.to_thread(self._reranker.close, self._drain_seconds()))

    def _drain_seconds(self) -> float:
        return max(0.0, (self._drain_until or 0.0) - time.monotonic())

    def _report(self, dropped: int) -> None:
        if dropped:
            logger.error(
                "dropped %d request(s) that were not done within %g s of the order to stop (RERANKER_DRAIN_TIMEOUT)",
                dropped,
                self._settings.drain_timeout,
            )

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            scorer = load(self._settings)
        except StartupError as error:
            self._fail(str(error))
        except Exception as error:
            self._fail_unforeseen(error)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: stopped while loading
                loop.call_soon_threadsafe(self._serve, scorer)

    def _fail_unforeseen(self, error: Exception) -> None:
        """A bug must not leave a server that loads for ever."""
        logger.debug("loading failed", exc_info=error)
        self._fail(f"loading the model failed: {type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if self.leaving:  # nobody waits for the model any more, and the end of the process may be why
            return
        logger.critical("%s", reason)
        self._problem = Problem("failed", reason)
        self._process.on_failure()

    def _serve(self, scorer: Scorer) -> None:
        if self._problem is None or self._problem.state != "loading":
            return
        try:
            self._reranker = Reranker(
                scorer, self._settings, self._metrics, self._tracing, self._process.on_death, self._calibration
            )
        except StartupError as error:
            self._fail(str(error))
            return
        except Exception as error:
            self._fail_unforeseen(error)
            return
        self._problem = None
        self._settled.set()
        backend = scorer.backend
        logger.info(
            "ready: %s (%s) on %s, %s, %s attention",
            scorer.info.name,
            scorer.family.name,
            scorer.device,
            backend.dtype,
            backend.attention,
        )
        self._process.on_ready()
