"""A lane: the thread that owns a device and its model, and pulls a batch whenever the device is free.

Never polls and never waits for a batch to fill: under load batches are full because work piled up while the model was
busy; idle, a request starts at once. Where the device computes by itself, the next batch is begun while one is
computed, and no further ahead.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from reranker_serve.engine.job import Unit
from reranker_serve.engine.kinds import OverlappingBackend, PlacedBackend
from reranker_serve.engine.line import LaneLost, Line
from reranker_serve.engine.outputs import check_shapes
from reranker_serve.engine.watchdog import Watchdog
from reranker_serve.errors import BackendLost, InferenceFailed
from reranker_serve.types import Backend, EncodedItem, Outputs

logger = logging.getLogger(__name__)

OnPass = Callable[[Sequence[EncodedItem]], Callable[[str | None], None]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What all lanes are told: rows and vectors are of `width` numbers; the rest is as in `Engine`."""

    on_batch: Callable[[int, str], None]
    on_pass: OnPass
    pass_timeout: float
    width: int


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


def names(backends: Sequence[Backend]) -> list[str]:
    """One for each lane: its device, with a number where several lanes share one."""
    devices = [backend.device for backend in backends]
    alone = len(set(devices)) == len(devices)
    return devices if alone else [f"{device}:{number}" for number, device in enumerate(devices)]


class Lane:
    """Runs a backend over what it takes from the line, as lane `number`.

    `on_loss(lane, reason, thread_ended)` is called when it computes no more: by its own thread as the last it does,
    or by its watchdog while the thread hangs; then, if it comes back after all, again.
    """

    def __init__(
        self,
        number: int,
        name: str,
        backend: Backend,
        budget: float,
        line: Line,
        facts: Facts,
        on_loss: Callable[[Lane, str, bool], None],
    ) -> None:
        self.number = number
        self.name = name
        self._backend = backend
        self._device = backend if isinstance(backend, OverlappingBackend) else None
        self._budget = budget
        self._line = line
        self._facts = facts
        self._on_loss = on_loss
        self._last_done = 0.0
        self._failures = 0
        self._announced: list[Callable[[str | None], None]] = []  # to be told of passes that are not over
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._watchdog = Watchdog(facts.pass_timeout, self._hang)

    def start(self) -> None:
        self._line.begin(self.number)
        self._thread.start()
        self._watchdog.start()

    def stop_watching(self) -> None:
        self._watchdog.stop()

    def join(self, timeout: float) -> None:
        """Wait for the thread, which is at its end."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _hang(self) -> None:
        seconds = self._facts.pass_timeout
        self._on_loss(self, f"the model hangs: a forward pass was not done within {seconds:g} s", False)

    # --- on its thread ---

    def _run(self) -> None:
        try:
            if isinstance(self._backend, PlacedBackend):
                self._backend.enter_thread()
            self._compute()
        except LaneLost as lost:  # it hung, and comes back
            self._on_loss(self, str(lost), True)
        except BaseException as error:  # the thread's last word: nobody may wait for it for ever
            logger.critical("the model thread died", exc_info=error)
            self._on_loss(self, f"the model thread died: {type(error).__name__}: {error}", True)
        finally:
            self._watchdog.stop()
            self._line.end(self.number)
            for over in self._announced:
                over(LaneLost.__name__)

    def _compute(self) -> None:
        running: _Pass | None = None
        while (batch := self._line.take(self.number, running.units if running else ())) or running:
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
            del batch, begun  # whose requests would stay in memory while it waits for others

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
            self._fail(batch[0], failure)
            return []
        self._line.claim(self.number, ())
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
        seen = self._announce(items)
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

    def _announce(self, items: Sequence[EncodedItem]) -> Callable[[str | None], None]:
        """A pass begins; what is returned is to be told when it is over, or is when the lane ends before that."""
        over = self._facts.on_pass(items)
        self._announced.append(over)

        def seen(failure: str | None) -> None:
            self._announced.remove(over)
            over(failure)

        return seen

    def _deliver(self, begun: _Pass) -> _Failure | None:
        outputs = self._outputs(begun)
        if isinstance(outputs, _Failure):
            begun.seen(outputs.kind)
            return outputs
        begun.seen(None)
        now = time.monotonic()
        # A pass that was begun while another ran did not begin to be computed until that was done.
        seconds = now - max(begun.start, self._last_done)
        alone = begun.failures == self._failures
        tokens = self._line.computed(self.number, begun.units, seconds if alone else 0.0, now)
        self._facts.on_batch(tokens, self.name)
        self._last_done = now
        for unit, output in zip(begun.units, outputs, strict=True):
            unit.job.deliver(unit.position, output, now)
        return None

    def _outputs(self, begun: _Pass) -> Outputs | _Failure:
        try:
            with self._watchdog.watched(self._patience(begun.units)):
                outputs = begun.result()
            check_shapes(outputs, [unit.item for unit in begun.units], self._facts.width)
            return outputs
        except BackendLost as error:
            begun.seen(type(error).__name__)
            raise
        except Exception as error:  # as above
            return _Failure.of(error)

    def _fail(self, unit: Unit, failure: _Failure) -> None:
        self._line.claim(self.number, [unit])
        logger.error("inference failed: %s", failure.text)
        self._line.drop(unit.job)
        unit.job.fail(InferenceFailed(f"the model failed on this request: {failure.kind}"))

    def _patience(self, units: list[Unit]) -> float:
        """How many times longer than a full pass this may take: attention of one long item grows with its square."""
        return max(1.0, max(len(unit.item) for unit in units) / self._budget) ** 2
