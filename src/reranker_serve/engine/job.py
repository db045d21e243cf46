"""A request on its way through the engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from reranker_serve.types import EncodedItem, FloatArray, count_tokens

# Priorities beyond are as good as this: the scheduler keeps a line for each that is in use.
MOST_URGENT = 1000


@dataclass(frozen=True, slots=True)
class JobResult:
    """`outputs` is [items, width] in the order submitted; times in seconds."""

    outputs: FloatArray
    queue_seconds: float
    inference_seconds: float


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest piece of work: one item of one job."""

    job: Job
    position: int

    @property
    def item(self) -> EncodedItem:
        return self.job.items[self.position]


class Job:
    """The items of one request, which of them are still to be computed, and the promise.

    Times are seconds of one monotonic clock. The longest items go first, so that a batch
    holds items of like length and the last one is small.
    """

    def __init__(self, items: Sequence[EncodedItem], submitted_at: float, priority: int = 0) -> None:
        if not items:
            raise ValueError("a job of no items would wait for ever")
        self.items = tuple(items)
        self.priority = max(-MOST_URGENT, min(MOST_URGENT, priority))
        self.future: Future[JobResult] = Future()
        self.waiting_tokens = count_tokens(self.items)
        # Every batch that holds an item of this job computes the shared prefix again.
        self._prefix_tokens = self.waiting_tokens - sum(len(item) for item in self.items)
        self._submitted_at = submitted_at
        self._started_at: float | None = None
        # Popped from the end: shortest first in this list, longest first out of it.
        self._waiting = sorted(range(len(self.items)), key=lambda i: (len(self.items[i]), -i))
        self._outputs: FloatArray | None = None
        self._missing = len(self.items)
        self._settling = threading.Lock()

    @property
    def settled(self) -> bool:
        """True once the caller has an answer, an error, or has gone away."""
        return self.future.done()

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def take(self, turn: int, room: float, prefix_there: bool) -> tuple[list[Unit], int]:
        """Hand out waiting items up to `turn` tokens, and in any case one if it fits `room`.

        `prefix_there` tells that the batch holds the job's prefix already. Returns the units
        and the tokens they add to the batch.
        """
        units: list[Unit] = []
        tokens = 0 if prefix_there else self._prefix_tokens
        while self._waiting:
            cost = len(self.items[self._waiting[-1]])
            if tokens + cost > turn and (units or tokens + cost > room):
                break
            units.append(Unit(self, self._waiting.pop()))
            tokens += cost
        self.waiting_tokens -= sum(len(unit.item) for unit in units)
        if not self._waiting:
            self.waiting_tokens = 0
        return units, tokens

    def started(self, now: float) -> None:
        if self._started_at is None:
            self._started_at = now

    def deliver(self, position: int, row: FloatArray, now: float) -> None:
        """Store one item's numbers; the last one resolves the promise."""
        if self.settled:
            return
        if self._outputs is None:
            self._outputs = np.empty((len(self.items), len(row)), dtype=np.float32)
        self._outputs[position] = row
        self._missing -= 1
        if self._missing == 0:
            assert self._started_at is not None
            result = JobResult(self._outputs, self._started_at - self._submitted_at, now - self._started_at)
            if self._settle():
                self.future.set_result(result)

    def fail(self, error: Exception) -> bool:
        """Break the promise; False if it was kept, broken or cancelled before."""
        settled = self._settle()
        if settled:
            self.future.set_exception(error)
        return settled

    def _settle(self) -> bool:
        """Whether the promise is the caller's to keep or break: the model thread, the watchdog and a shutdown race."""
        with self._settling:
            return not self.future.running() and not self.settled and self.future.set_running_or_notify_cancel()
