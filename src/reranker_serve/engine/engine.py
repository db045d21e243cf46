"""The thread that owns the model: it pulls a batch whenever the model is free.

Never polls and never waits for a batch to fill: under load batches are full because work
piled up while the model was busy; idle, a request starts at once. Where the device computes
by itself, the next batch is begun while one is computed, and no further ahead.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.job import Job, Unit
from reranker_serve.engine.outputs import check_shapes
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.engine.watchdog import Watchdog
from reranker_serve.errors import BackendLost, InferenceFailed, NotReady
from reranker_serve.types import Backend, EncodedItem, Outputs, OverlappingBackend, count_tokens

logger = logging.getLogger(__name__)

_STOPPING = "the server is shutting down"
OnPass = Callable[[Sequence[EncodedItem]], Callable[[str | None], None]]


def _ignore(amount: float) -> None:
    return None


def _nothing() -> None:
    return None


def _unseen(items: Sequence[EncodedItem]) -> Callable[[str | None], None]:
    return lambda failure: None


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass that was begun at `start`; `result` waits for it, and `seen` is told when it is over.

    `failures` is how many batches had failed by then: what is computed between makes its time mean nothing.
    """

    units: list[Unit]
    start: float
    result: Callable[[], Outputs]
    seen: Callable[[str | None], None]
    failures: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """What is kept of an exception: as a whole it would keep the tensors of its pass in memory."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        return cls(type(error).__name__, "".join(traceback.format_exception(error)).rstrip())


class Engine:
    """Runs a backend over everything submitted. Thread-safe; times are of `time.monotonic`.

    `on_batch(tokens)` is called after each forward pass, `on_queue(tokens)` whenever the number of waiting tokens
    changes, `on_wait(seconds)` whenever `queued_seconds` does, `on_death()` once, when nothing will be computed any
    more: the model thread died, or one pass took `pass_timeout` seconds. `on_pass(items)` is called before each pass,
    and what it returns after it, with the kind of its failure or None. All must be quick and may come from any thread.
    """

    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        token_budget: int,
        on_batch: Callable[[int], None] = _ignore,
        on_queue: Callable[[int], None] = _ignore,
        on_wait: Callable[[float], None] = _ignore,
        on_death: Callable[[], None] = _nothing,
        on_pass: OnPass = _unseen,
        pass_timeout: float = 300.0,
        width: int = 1,
    ) -> None:
        self._backend = backend
        self._device = backend if isinstance(backend, OverlappingBackend) else None
        self._admission = admission
        self._scheduler = Scheduler(admission.pace)
        self._budget = token_budget
        self._on_batch = on_batch
        self._on_queue = on_queue
        self._on_wait = on_wait
        self._on_death = on_death
        self._on_pass = on_pass
        self._pass_timeout = pass_timeout
        self._width = width
        self._changed = threading.Condition()
        self._batch: list[Unit] = []  # handed to the model thread and not yet done
        self._last_done = 0.0
        self._failures = 0
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

    @property
    def queued_seconds(self) -> float:
        """How long it takes to compute what was let in, that which is only being tokenized too."""
        with self._changed:
            return self._admission.seconds

    @contextmanager
    def admitted(self, promise: Promise, least: int) -> Iterator[Promise]:
        """A request is let in, of about as many tokens as promised and `least` at least; it leaves at the end.

        Raises `Overloaded`, `RequestTooLarge`, `DeadlineExceeded` or `NotReady`.
        """
        with self._changed:
            self.check_open()
            self._admission.admit(promise, time.monotonic(), least)
            self._on_wait(self._admission.seconds)
        try:
            yield promise
        finally:
            with self._changed:
                self._admission.forget(promise)
                self._on_wait(self._admission.seconds)

    def submit(self, items: Sequence[EncodedItem], promise: Promise) -> Job:
        """Queue all items of a request that is let in.

        Cancelling the job's future drops whatever is not computed yet. Raises what `admitted` raises, if the items
        are more than was promised for; a failure while computing is in the future.
        """
        now, tokens = time.monotonic(), count_tokens(items)
        with self._changed:
            self.check_open()
            self._admission.correct(promise, tokens, now)
            job = Job(items, now, promise)
            self._scheduler.add(job)
            self._on_queue(self._scheduler.queued_tokens)
            self._on_wait(self._admission.seconds)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job

    def cut(self, job: Job) -> None:
        """Resolve a job with what is computed of it by now."""
        job.cut(time.monotonic(), self._width)
        self._forget(job)

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
                begun = self._attempt(batch)
                if running:
                    self._finish(running)
                if isinstance(begun, _Failure):
                    self._halve(batch, begun)
                    begun = None
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
            while not (batch := self._next_batch()):
                if running or self._closing or self._death is not None:
                    return []
                self._changed.wait()
            self._batch = [*self._batch, *batch]
            self._on_queue(self._scheduler.queued_tokens)
            return batch

    def _next_batch(self) -> list[Unit]:
        now = time.monotonic()
        return self._scheduler.next_batch(self._budget, now, self._admission.pressing(now))

    def _finish(self, begun: _Pass) -> None:
        """Deliver a pass. If it failed, halve it until exactly the items at fault fail."""
        failure = self._deliver(begun)
        if failure:
            self._halve(begun.units, failure)

    def _halve(self, batch: list[Unit], failure: _Failure) -> None:
        self._failures += 1
        waiting = self._halves(batch, failure)
        while waiting:
            half = waiting.pop()
            begun = self._attempt(half)
            again = self._deliver(begun) if isinstance(begun, _Pass) else begun
            if again:
                waiting += self._halves(half, again)

    def _halves(self, batch: list[Unit], failure: _Failure) -> list[list[Unit]]:
        """What to try when a batch failed, the last one first; nothing more if it was a single unit."""
        if len(batch) == 1:
            self._fail(batch[0].job, failure)
            return []
        middle = len(batch) // 2
        return [batch[middle:], batch[:middle]]

    def _attempt(self, batch: list[Unit]) -> _Pass | _Failure | None:
        """Begin what is still wanted of a batch; None if that is nothing."""
        units = [unit for unit in batch if not unit.job.settled]
        if not units:
            return None
        start = time.monotonic()
        for unit in units:
            unit.job.started(start)
        items = [unit.item for unit in units]
        seen = self._on_pass(items)
        if self._device is None:
            return _Pass(units, start, partial(self._backend.forward, items), seen, self._failures)
        try:
            with self._watchdog.watched(self._patience(units)):
                return _Pass(units, start, self._device.begin(items), seen, self._failures)
        except BackendLost as error:
            seen(type(error).__name__)
            raise
        except Exception as error:  # whatever a model may raise concerns these items alone
            failure = _Failure.of(error)
        seen(failure.kind)
        return failure

    def _deliver(self, begun: _Pass) -> _Failure | None:
        outputs = self._outputs(begun)
        if isinstance(outputs, _Failure):
            begun.seen(outputs.kind)
            return outputs
        begun.seen(None)
        now = time.monotonic()
        # A pass that was begun while another ran did not begin to be computed until that was done.
        seconds = now - max(begun.start, self._last_done)
        self._account(begun.units, seconds if begun.failures == self._failures else 0.0, now)
        self._last_done = now
        for unit, output in zip(begun.units, outputs, strict=True):
            unit.job.deliver(unit.position, output, now)
        return None

    def _outputs(self, begun: _Pass) -> Outputs | _Failure:
        try:
            with self._watchdog.watched(self._patience(begun.units)):
                outputs = begun.result()
            check_shapes(outputs, [unit.item for unit in begun.units], self._width)
            return outputs
        except BackendLost as error:
            begun.seen(type(error).__name__)
            raise
        except Exception as error:  # as above
            return _Failure.of(error)

    def _fail(self, job: Job, failure: _Failure) -> None:
        logger.error("inference failed: %s", failure.text)
        self._forget(job)
        job.fail(InferenceFailed(f"the model failed on this request: {failure.kind}"))

    def _patience(self, units: list[Unit]) -> float:
        """How many times longer than a full pass this may take: attention of one long item grows with its square."""
        return max(1.0, max(len(unit.item) for unit in units) / self._budget) ** 2

    def _account(self, units: list[Unit], seconds: float, now: float) -> None:
        tokens = count_tokens(unit.item for unit in units)
        with self._changed:
            self._admission.learn(tokens, seconds, now)
            for job in {unit.job for unit in units}:
                self._admission.reduce(job.promise, job.waiting_tokens)
            self._on_wait(self._admission.seconds)
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
