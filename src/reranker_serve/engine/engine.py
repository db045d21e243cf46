"""The thread that owns the model: it pulls a batch whenever the model is free.

Never polls and never waits for a batch to fill: under load batches are full because work
piled up while the model was busy; idle, a request starts at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from reranker_serve.engine.job import Job, JobResult, Unit
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.engine.watchdog import Watchdog
from reranker_serve.errors import BackendError, BackendLost, InferenceFailed, NotReady
from reranker_serve.types import Backend, EncodedItem, FloatArray, count_tokens

logger = logging.getLogger(__name__)


_STOPPING = "the server is shutting down"


def _ignore(tokens: int) -> None:
    return None


def _nothing() -> None:
    return None


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
        self._scheduler = scheduler
        self._budget = token_budget
        self._on_batch = on_batch
        self._on_queue = on_queue
        self._on_death = on_death
        self._pass_timeout = pass_timeout
        self._width = width
        self._changed = threading.Condition()
        self._batch: list[Unit] = []  # handed to the model thread and not yet done
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
        try:
            while batch := self._pull():
                self._compute(batch)
        except BaseException as error:  # the thread's last word: nobody may wait for it for ever
            logger.critical("the model thread died", exc_info=error)
            self._die(f"the model thread died: {type(error).__name__}: {error}")

    def _pull(self) -> list[Unit]:
        """Wait for work; an empty list means: closed and drained, or given up."""
        with self._changed:
            self._batch = []
            while not (batch := self._scheduler.next_batch(self._budget)):
                if self._closing or self._death is not None:
                    return []
                self._changed.wait()
            self._batch = batch
            self._on_queue(self._scheduler.queued_tokens)
            return batch

    def _compute(self, batch: list[Unit]) -> None:
        """Compute a batch. If it fails, halve it until exactly the items at fault fail."""
        batch = [unit for unit in batch if not unit.job.settled]
        if not batch:
            return
        start = time.perf_counter()
        for unit in batch:
            unit.job.started(start)
        try:
            rows = self._forward([unit.item for unit in batch])
        except BackendLost:
            raise
        except Exception as error:  # whatever a model may raise concerns these items alone
            self._split(batch, error)
            return
        now = time.perf_counter()
        self._account(count_tokens(unit.item for unit in batch), now - start)
        for unit, row in zip(batch, rows, strict=True):
            unit.job.deliver(unit.position, row, now)

    def _forward(self, items: list[EncodedItem]) -> FloatArray:
        with self._watchdog.watched():
            rows = self._backend.forward(items)
        shape, expected = np.shape(rows), (len(items), self._width)
        if shape != expected:
            raise BackendError(f"the backend returned numbers of shape {shape} where {expected} was due")
        return rows

    def _split(self, batch: list[Unit], error: Exception) -> None:
        if len(batch) > 1:
            half = len(batch) // 2
            self._compute(batch[:half])
            self._compute(batch[half:])
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
