"""The thread that owns the model: it pulls a batch whenever the model is free.

Never polls and never waits for a batch to fill: under load batches are full because work
piled up while the model was busy; idle, a request starts at once. Where the device computes
by itself, the next batch is begun while one is computed, and no further ahead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from reranker_serve.engine.job import Job, JobResult, Unit
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.engine.watchdog import Watchdog
from reranker_serve.errors import BackendError, BackendLost, InferenceFailed, NotReady
from reranker_serve.types import Backend, EncodedItem, FloatArray, OverlappingBackend, count_tokens

logger = logging.getLogger(__name__)


_STOPPING = "the server is shutting down"


def _ignore(tokens: int) -> None:
    return None


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass that was begun at `start`; `result` waits for it."""

    units: list[Unit]
    start: float
    result: Callable[[], FloatArray]


class Engine:
    """Runs a backend over everything submitted. Thread-safe.

    `on_batch(tokens)` is called after each forward pass, `on_queue(tokens)` whenever the
    number of waiting tokens changes, `on_death()` once, when nothing will be computed any more:
    the model thread died, or one pass took `pass_timeout` seconds. All must be quick and may
    come from any thread.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        token_budget: int,
        on_batch: Callable[[int], None] = _ignore,
        on_queue: Callable[[int], None] = _ignore,
        on_death: Callable[[], None] = _nothing,
        pass_timeout: float = 300.0,
        width: int = 1,
    ) -> None:
        self._backend = backend
        self._device = backend if isinstance(backend, OverlappingBackend) else None
        self._scheduler = scheduler
        self._budget = token_budget
        self._on_batch = on_batch
        self._on_queue = on_queue
        self._on_death = on_death
        self._pass_timeout = pass_timeout
        self._width = width
        self._changed = threading.Condition()
        self._batch: list[Unit] = []  # handed to the model thread and not yet done
        self._last_done = 0.0
        self._closing = False
        self._death: str | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._watchdog = Watchdog(pass_timeout, self._hang)

    def start(self) -> None:
        self._thread.start()
        self._watchdog.start()

    @property
    def death(self) -> str | None:
        """Why the model thread died, or None while it lives."""
        return self._death

    @property
    def queued_tokens(self) -> int:
        return self._scheduler.queued_tokens

    def submit(self, items: Sequence[EncodedItem], priority: int = 0) -> Future[JobResult]:
        """Admit all items of a request or refuse them all; a lower `priority` is computed earlier.

        Cancelling the future drops whatever is not computed yet. Raises `Overloaded`,
        `RequestTooLarge` or `NotReady`; a failure while computing is in the future.
        """
        job = Job(items, time.perf_counter(), priority)
        with self._changed:
            self.check_open()
            self._scheduler.admit(job)
            self._on_queue(self._scheduler.queued_tokens)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job.future

    def close(self, timeout: float | None = None) -> int:
        """Refuse new work, finish what was admitted within `timeout` seconds, and stop the thread.

        Returns the number of requests that were dropped.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive() and self._death is None:
            self._thread.join(timeout)
        self._watchdog.stop()
        return self.abandon()

    def abandon(self) -> int:
        """Refuse new work, and fail what was admitted and is not done; returns for how many requests."""
        with self._changed:
            self._closing = True
            jobs = self._take_all()
            self._changed.notify()
        return sum(job.fail(NotReady(f"{_STOPPING}, and had no time left for this request", 5)) for job in jobs)

    def check_open(self) -> None:
        """Raise `NotReady` if nothing can be submitted any more."""
        if self._death is not None:
            raise NotReady(self._death, retry_after=30)
        if self._closing:
            raise NotReady(_STOPPING, retry_after=5)

    def check_room(self, tokens: int) -> None:
        """Raise what `submit` would for a request of so many tokens, or more: before the work of finding out."""
        with self._changed:
            self._scheduler.check_room(tokens)

    def _forget(self, job: Job) -> None:
        with self._changed:
            self._scheduler.drop(job)
            self._on_queue(self._scheduler.queued_tokens)

    def _take_all(self) -> set[Job]:
        """Every job that may still be unsettled. Under the lock."""
        waiting = self._scheduler.clear()
        if waiting:
            self._on_queue(0)
        return {*waiting, *(unit.job for unit in self._batch)}

    # --- on the model thread ---

    def _run(self) -> None:
        running: _Pass | None = None
        try:
            while (batch := self._pull(running)) or running:
                begun = self._begin(batch)
                if running:
                    self._finish(running)
                running = begun
                if running and self._device is None:
                    self._finish(running)
                    running = None
        except BaseException as error:  # the thread's last word: nobody may wait for it for ever
            logger.critical("the model thread died", exc_info=error)
            self._die(f"the model thread died: {type(error).__name__}: {error}")

    def _pull(self, running: _Pass | None) -> list[Unit]:
        """Wait for work, unless a pass is running; an empty list without one means: closed and drained, or given up."""
        with self._changed:
            self._batch = running.units if running else []
            while not (batch := self._scheduler.next_batch(self._budget)):
                if running or self._closing or self._death is not None:
                    return []
                self._changed.wait()
            self._batch = [*self._batch, *batch]
            self._on_queue(self._scheduler.queued_tokens)
            return batch

    def _begin(self, batch: list[Unit]) -> _Pass | None:
        """Begin what is still wanted of a batch; None if that is nothing, or if it failed and was settled."""
        units = [unit for unit in batch if not unit.job.settled]
        if not units:
            return None
        start = time.perf_counter()
        for unit in units:
            unit.job.started(start)
        items = [unit.item for unit in units]
        if self._device is None:
            return _Pass(units, start, partial(self._backend.forward, items))
        try:
            with self._watchdog.watched():
                return _Pass(units, start, self._device.begin(items))
        except BackendLost:
            raise
        except Exception as error:  # whatever a model may raise concerns these items alone
            self._split(units, error)
            return None

    def _finish(self, begun: _Pass) -> None:
        """Deliver a pass. If it failed, halve it until exactly the items at fault fail."""
        try:
            rows = self._rows(begun)
        except BackendLost:
            raise
        except Exception as error:
            self._split(begun.units, error)
            return
        now = time.perf_counter()
        # A pass that was begun while another ran did not begin to be computed until that was done.
        self._account(count_tokens(unit.item for unit in begun.units), now - max(begun.start, self._last_done))
        self._last_done = now
        for unit, row in zip(begun.units, rows, strict=True):
            unit.job.deliver(unit.position, row, now)

    def _rows(self, begun: _Pass) -> FloatArray:
        with self._watchdog.watched():
            rows = begun.result()
        shape, expected = np.shape(rows), (len(begun.units), self._width)
        if shape != expected:
            raise BackendError(f"the backend returned numbers of shape {shape} where {expected} was due")
        return rows

    def _split(self, batch: list[Unit], error: Exception) -> None:
        if len(batch) > 1:
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                if begun := self._begin(half):
                    self._finish(begun)
            return
        job = batch[0].job
        logger.error("inference failed: %s", error, exc_info=error)
        self._forget(job)
        job.fail(InferenceFailed(f"the model failed on this request: {type(error).__name__}"))

    def _account(self, tokens: int, seconds: float) -> None:
        with self._changed:
            self._scheduler.completed(tokens, seconds)
        self._on_batch(tokens)

    # --- the end, on whichever thread sees it ---

    def _hang(self) -> None:
        self._die(f"the model hangs: a forward pass was not done within {self._pass_timeout:g} s")

    def _die(self, message: str) -> None:
        with self._changed:
            if self._death is not None:
                return
            self._death = message
            jobs = self._take_all()
        failed = sum(job.fail(NotReady(message, retry_after=30)) for job in jobs)
        logger.critical("%s; %d request(s) that waited for it failed", message, failed)
        self._watchdog.stop()
        self._on_death()
