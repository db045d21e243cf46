"""The engine as its callers see it: requests are let in, queued, cut, cancelled, drained, and told of its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.job import Job
from reranker_serve.engine.lanes import Facts, Lane, OnPass, names
from reranker_serve.engine.line import Line
from reranker_serve.errors import InferenceFailed, NotReady
from reranker_serve.types import Backend, EncodedItem

logger = logging.getLogger(__name__)

_LAST_INSTRUCTIONS_S = 1.0


def _ignore(amount: float) -> None:
    return None


def _unheard(what: object, name: object) -> None:
    return None


def _nothing() -> None:
    return None


def _unseen(items: Sequence[EncodedItem]) -> Callable[[str | None], None]:
    return lambda failure: None


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane's device; `reason` says why it is lost, None while it computes."""

    device: str
    reason: str | None


class Engine:
    """Runs backends, each on a lane of its own, over everything submitted; `admission` knows as many.

    Thread-safe; times are of `time.monotonic`.

    `on_batch(tokens, device)` is called after each forward pass, `on_queue(tokens)` whenever the number of waiting
    tokens changes, `on_wait(seconds)` whenever `queued_seconds` does. `on_pass(items)` is called before each pass, and
    what it returns after it, with the kind of its failure or None.

    A lane is lost when its thread dies, or when one of its passes takes `pass_timeout` seconds; the others go on.
    `on_loss(device, reason)` is called for each, and `on_death()` once, when nothing will be computed any more.

    All must be quick and may come from any thread.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        admission: Admission,
        on_batch: Callable[[int, str], None] = _unheard,
        on_queue: Callable[[int], None] = _ignore,
        on_wait: Callable[[float], None] = _ignore,
        on_loss: Callable[[str, str], None] = _unheard,
        on_death: Callable[[], None] = _nothing,
        on_pass: OnPass = _unseen,
        pass_timeout: float = 300.0,
        width: int = 1,
    ) -> None:
        self._line = Line(admission, on_queue, on_wait)
        self._on_loss = on_loss
        self._on_death = on_death
        self._width = width
        facts = Facts(on_batch, on_pass, pass_timeout, width)
        named = enumerate(zip(names(backends), backends, strict=True))
        self._lanes = [
            Lane(number, name, backend, admission.pace.budget(number), self._line, facts, self._lose)
            for number, (name, backend) in named
        ]

    def start(self) -> None:
        for lane in self._lanes:
            lane.start()

    @property
    def death(self) -> str | None:
        """Why nothing is computed any more, or None."""
        return self._line.death

    @property
    def lanes(self) -> list[LaneState]:
        return [LaneState(lane.name, self._line.lost(lane.number)) for lane in self._lanes]

    @property
    def queued_tokens(self) -> int:
        return self._line.tokens

    @property
    def queued_seconds(self) -> float:
        """How long it takes to compute what was let in, that which is only being tokenized too."""
        return self._line.seconds

    def admitted(self, promise: Promise, least: int) -> AbstractContextManager[Promise]:
        """A request is let in, of about as many tokens as promised and `least` at least; it leaves at the end.

        Raises `Overloaded`, `RequestTooLarge`, `DeadlineExceeded` or `NotReady`.
        """
        return self._line.admitted(promise, least)

    def submit(self, items: Sequence[EncodedItem], promise: Promise) -> Job:
        """Queue all items of a request that is let in.

        Cancelling the job's future drops whatever is not computed yet. Raises what `admitted` raises, if the items
        are more than was promised for; a failure while computing is in the future.
        """
        job = self._line.add(items, promise)
        job.future.add_done_callback(lambda future: self._line.drop(job) if future.cancelled() else None)
        return job

    def cut(self, job: Job) -> None:
        """Resolve a job with what is computed of it by now."""
        job.cut(time.monotonic(), self._width)
        self._line.drop(job)

    def close(self, timeout: float | None = None) -> int:
        """Refuse new work, finish what was admitted within `timeout` seconds, and stop the threads.

        Returns the number of requests that were dropped.
        """
        self._line.close(timeout)
        for lane in self._lanes:
            lane.stop_watching()
            if self._line.ended(lane.number):
                lane.join(_LAST_INSTRUCTIONS_S)
        return self.abandon()

    def abandon(self) -> int:
        """Refuse new work, and fail what was admitted and is not done; returns for how many requests."""
        error = "the server is shutting down, and had no time left for this request"
        return sum(job.fail(NotReady(error, 5)) for job in self._line.abandon())

    def check_open(self) -> None:
        """Raise `NotReady` if nothing can be submitted any more."""
        self._line.check_open()

    def _lose(self, lane: Lane, reason: str, thread_ended: bool) -> None:
        """A lane computes no more; on whichever thread sees it."""
        told = f"{lane.name}: {reason}" if len(self._lanes) > 1 else reason
        loss = self._line.lose(lane.number, told, thread_ended)
        if loss.news:
            lane.stop_watching()
            self._on_loss(lane.name, reason)
        for job in loss.poisoned:
            job.fail(InferenceFailed("the model failed on this request: two devices were lost while they computed it"))
        failed = sum(job.fail(NotReady(told, retry_after=30)) for job in loss.abandoned)
        if loss.last:
            logger.critical("%s; %d request(s) that waited for it failed", told, failed)
            self._on_death()
        elif loss.news:
            logger.critical("%s; the other devices go on", told)
