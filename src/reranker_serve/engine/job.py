"""A request on its way through the engine."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker_serve.engine.admission import Promise
from reranker_serve.engine.outputs import zeros
from reranker_serve.types import EncodedItem, FloatArray, Outputs, count_tokens


@dataclass(frozen=True, slots=True)
class JobResult:
    """`outputs` stand in the order submitted; `computed`, [items], tells which hold numbers, while the others are
    zeros; times in seconds."""

    outputs: Outputs
    computed: NDArray[np.bool_]
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

    Times are seconds of one monotonic clock. The longest items go first, so that a batch holds items of like length
    and the last one is small; of a job whose promise is not firm the first ones, as callers send the best first. Items
    that share a prefix stand together.
    """

    def __init__(self, items: Sequence[EncodedItem], submitted_at: float, promise: Promise | None = None) -> None:
        if not items:
            raise ValueError("a job of no items would wait for ever")
        self.items = tuple(items)
        self.future: Future[JobResult] = Future()
        self.waiting_tokens = count_tokens(self.items)
        self.promise = promise or Promise(self.waiting_tokens, math.inf)
        self.submitted_at = submitted_at
        self.given_up = False  # nothing of it is to be computed any more
        self._lost: set[int] = set()  # positions that were put back
        self._started_at: float | None = None
        self._waiting = _order(self.items, by_length=self.promise.firm)
        # Waiting items of each prefix: its tokens are to be computed as long as there are any.
        self._sharing = Counter(id(item.prefix) for item in self.items)
        self._outputs: Outputs | None = None
        self._computed = np.zeros(len(self.items), dtype=np.bool_)
        self._missing = len(self.items)
        self._delivering = threading.Lock()
        self._settling = threading.Lock()

    @property
    def settled(self) -> bool:
        """True once the caller has an answer, an error, or has gone away."""
        return self.future.done()

    @property
    def begun(self) -> bool:
        return len(self._waiting) < len(self.items)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def take(self, turn: float, room: float, there: set[int]) -> tuple[list[Unit], int]:
        """Hand out waiting items up to `turn` tokens, and in any case one if it fits `room`.

        `there` has the identities of the prefixes that the batch holds, and gets those that come. Returns the units
        and the tokens they add to the batch.
        """
        units: list[Unit] = []
        tokens = 0
        while self._waiting:
            item = self.items[self._waiting[-1]]
            cost = len(item) + (0 if item.prefix is None or id(item.prefix) in there else len(item.prefix))
            if tokens + cost > turn and (units or tokens + cost > room):
                break
            units.append(Unit(self, self._waiting.pop()))
            tokens += cost
            self._count_out(item)
            there.add(id(item.prefix))
        return units, tokens

    def has(self, position: int) -> bool:
        """Whether its numbers are there."""
        return bool(self._computed[position])

    @property
    def suspect(self) -> bool:
        """Whether a device was lost while it computed some of it."""
        return bool(self._lost)

    def was_lost(self, position: int) -> bool:
        """Whether it was put back."""
        return position in self._lost

    def put_back(self, positions: Sequence[int]) -> None:
        """Items that were taken, in this order, were not computed: they are the next ones."""
        self._lost.update(positions)
        for position in reversed(positions):
            self._count_in(self.items[position])
            self._waiting.append(position)

    def _count_in(self, item: EncodedItem) -> None:
        if item.prefix is not None and not self._sharing[id(item.prefix)]:
            self.waiting_tokens += len(item.prefix)
        self._sharing[id(item.prefix)] += 1
        self.waiting_tokens += len(item)

    def _count_out(self, item: EncodedItem) -> None:
        self.waiting_tokens -= len(item)
        self._sharing[id(item.prefix)] -= 1
        if item.prefix is not None and not self._sharing[id(item.prefix)]:
            self.waiting_tokens -= len(item.prefix)

    def started(self, now: float) -> None:
        if self._started_at is None:
            self._started_at = now

    def deliver(self, position: int, output: FloatArray, now: float) -> None:
        """Store one item's numbers, a row or vectors, which are not copied; the last one resolves the promise.

        Several lanes may do so at once, with different items.
        """
        width = output.shape[-1]
        with self._delivering:
            if self.settled or self._computed[position]:
                return
            if self._outputs is None:
                self._outputs = zeros(self.items, width)
            self._outputs[position] = output
            self._computed[position] = True
            self._missing -= 1
            last = self._missing == 0
        if last:
            self._resolve(now, width)

    def cut(self, now: float, width: int) -> None:
        """Resolve the promise with what there is; rows or vectors of `width` numbers."""
        self._resolve(now, width)

    def fail(self, error: Exception) -> bool:
        """Break the promise; False if it was kept, broken or cancelled before."""
        settled = self._settle()
        if settled:
            self.future.set_exception(error)
        return settled

    def _resolve(self, now: float, width: int) -> None:
        started = now if self._started_at is None else self._started_at
        # First, so that no row is told before it is whole: the model thread may be delivering.
        computed = self._computed.copy()
        outputs = zeros(self.items, width) if self._outputs is None else self._outputs
        result = JobResult(outputs, computed, started - self.submitted_at, now - started)
        if self._settle():
            self.future.set_result(result)

    def _settle(self) -> bool:
        """Whether the promise is the caller's to keep or break: the model thread, the watchdog and a shutdown race."""
        with self._settling:
            return not self.future.running() and not self.settled and self.future.set_running_or_notify_cancel()


def _order(items: Sequence[EncodedItem], by_length: bool) -> list[int]:
    """Positions in the order in which they are computed, the last one first: lists are popped from their end."""
    groups: dict[int, int] = {}
    for item in items:
        groups.setdefault(id(item.prefix), len(groups))
    return sorted(
        range(len(items)),
        key=lambda i: (-groups[id(items[i].prefix)], len(items[i]) if by_length else 0, -i),
    )
