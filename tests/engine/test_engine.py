from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import pytest

from reranker_serve.backends.fake import FakeBackend
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.job import JobResult
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.errors import BackendLost, InferenceFailed, NotReady, OutOfMemory
from reranker_serve.types import EncodedItem, FloatArray

WAIT = 10.0
POISON = 99


def item(shared: int, length: int = 4, marker: int = 1) -> EncodedItem:
    """A fake item whose score is `shared` - 1."""
    query = list(range(10, 10 + shared))
    ids = [*query, 0, *query, *[marker] * length]
    return EncodedItem(np.array(ids, dtype=np.int32), shared + 1)


Start = Callable[..., Engine]


@pytest.fixture
def start() -> Iterator[Start]:
    engines: list[Engine] = []

    def begin(backend: FakeBackend, budget: int = 1000, limit: int = 100_000) -> Engine:
        engine = Engine(backend, Scheduler(limit, turn_tokens=budget), budget)
        engine.start()
        engines.append(engine)
        return engine

    yield begin
    for engine in engines:
        engine.close(WAIT)


class Gate:
    """Holds the model until opened; `entered` is set when a batch has reached it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, items: Sequence[EncodedItem]) -> None:
        self.entered.set()
        assert self._open.wait(WAIT)

    def open(self) -> None:
        self._open.set()


def raise_on_poison(error: type[BaseException]) -> Callable[[Sequence[EncodedItem]], None]:
    def check(items: Sequence[EncodedItem]) -> None:
        if any(POISON in one.ids for one in items):
            raise error("poisoned")

    return check


class Device(FakeBackend):
    """Computes by itself, one pass after the other; fails at once on items of `FULL`, like a device without memory."""

    FULL = 98

    def __init__(self, before_forward: Callable[[Sequence[EncodedItem]], None] | None = None) -> None:
        super().__init__(before_forward)
        self.begun = 0
        self._stream = ThreadPoolExecutor(1)

    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], FloatArray]:
        if len(items) > 1 and any(self.FULL in one.ids for one in items):
            raise OutOfMemory("no memory")
        self.begun += 1
        return self._stream.submit(self.forward, items).result


def submit_until_refused(engine: Engine) -> None:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        engine.submit([item(1)]).cancel()


def outputs(future: Future[JobResult]) -> list[float]:
    values: list[float] = future.result(WAIT).outputs[:, 0].tolist()
    return values


def test_results_come_in_the_order_submitted(start: Start) -> None:
    engine = start(FakeBackend(), budget=10)
    future = engine.submit([item(3), item(1, length=20), item(2), item(0)])
    assert outputs(future) == [2.0, 0.0, 1.0, -1.0]


def test_times_are_told(start: Start) -> None:
    gate = Gate()
    engine = start(FakeBackend(gate))
    first = engine.submit([item(1)])
    assert gate.entered.wait(WAIT)
    second = engine.submit([item(1)])
    threading.Timer(0.1, gate.open).start()
    assert first.result(WAIT).inference_seconds >= 0.09
    assert second.result(WAIT).queue_seconds >= 0.09


def test_a_poisoned_item_fails_its_own_request_only(start: Start) -> None:
    gate = Gate()
    poison = raise_on_poison(ValueError)

    def check(items: Sequence[EncodedItem]) -> None:
        gate(items)
        poison(items)

    engine = start(FakeBackend(check))
    blocker = engine.submit([item(1)])
    assert gate.entered.wait(WAIT)
    good = engine.submit([item(2), item(3)])
    bad = engine.submit([item(1), item(1, marker=POISON), item(2)])
    other = engine.submit([item(4)])
    gate.open()
    assert outputs(blocker) == [0.0]
    assert outputs(good) == [1.0, 2.0]
    assert outputs(other) == [3.0]
    with pytest.raises(InferenceFailed, match="ValueError"):
        bad.result(WAIT)
    assert outputs(engine.submit([item(2)])) == [1.0]


def test_what_a_failed_request_has_left_is_never_computed() -> None:
    queue: list[int] = []
    backend = FakeBackend(raise_on_poison(ValueError))
    engine = Engine(backend, Scheduler(100_000, turn_tokens=60), 60, on_queue=queue.append)
    engine.start()
    # The poisoned item is the longest and so the first of the first batch.
    items = [item(1, length=10, marker=POISON), *[item(1) for _ in range(50)]]
    with pytest.raises(InferenceFailed):
        engine.submit(items).result(WAIT)
    engine.close(WAIT)
    assert backend.computed == 0
    everything = sum(len(one) for one in items)
    assert queue[0] == everything
    assert everything - 60 <= queue[1] < everything
    assert queue[2:] == [0]


def test_out_of_memory_splits_the_batch_until_it_fits(start: Start) -> None:
    sizes = []

    def at_most_two(items: Sequence[EncodedItem]) -> None:
        sizes.append(len(items))
        if len(items) > 2:
            raise OutOfMemory("too many")

    engine = start(FakeBackend(at_most_two))
    assert outputs(engine.submit([item(n) for n in range(7)])) == [n - 1.0 for n in range(7)]
    assert sizes[0] == 7
    assert max(sizes[-2:]) <= 2


def test_an_item_that_never_fits_fails_its_request(start: Start) -> None:
    engine = start(FakeBackend(raise_on_poison(OutOfMemory)))
    with pytest.raises(InferenceFailed, match="OutOfMemory"):
        engine.submit([item(1), item(1, marker=POISON)]).result(WAIT)


class Misshapen(FakeBackend):
    """Returns rows of a wrong shape for every batch that holds poison."""

    def __init__(self, spoil: Callable[[FloatArray], FloatArray]) -> None:
        super().__init__()
        self._spoil = spoil

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        rows = super().forward(items)
        return self._spoil(rows) if any(POISON in one.ids for one in items) else rows


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows[:-1],
        lambda rows: np.concatenate([rows, rows]),
        lambda rows: rows[:, 0],
        lambda rows: np.hstack([rows, rows]),
        lambda rows: rows[:, :0],
        lambda rows: rows[None],
        lambda rows: None,
    ],
    ids=["fewer", "more", "flat", "wide", "narrow", "deep", "none"],
)
def test_numbers_of_a_wrong_shape_fail_their_own_request_only(start: Start, spoil: Callable[..., FloatArray]) -> None:
    engine = start(Misshapen(spoil))
    bad = engine.submit([item(1), item(2, marker=POISON)])
    good = engine.submit([item(3), item(2)])
    with pytest.raises(InferenceFailed):
        bad.result(WAIT)
    assert outputs(good) == [2.0, 1.0]
    assert engine.death is None


def test_a_pass_that_never_ends_is_the_engines_death(caplog: pytest.LogCaptureFixture) -> None:
    gate, died = Gate(), threading.Event()
    scheduler = Scheduler(100_000, turn_tokens=30)
    engine = Engine(FakeBackend(gate), scheduler, 30, on_death=died.set, pass_timeout=0.3)
    engine.start()
    start = time.perf_counter()
    doomed = [engine.submit([item(1, length=25)]) for _ in range(3)]
    for future in doomed:
        with pytest.raises(NotReady, match=r"the model hangs: .* not done within 0\.3 s"):
            future.result(WAIT)
    assert 0.25 < time.perf_counter() - start < 3
    assert died.wait(WAIT)
    assert "3 request(s) that waited for it failed" in caplog.text
    with pytest.raises(NotReady, match="hangs"):
        engine.submit([item(1)])
    gate.open()  # what hung comes back after all: too late, and harmless
    assert engine.close(WAIT) == 0


def test_many_passes_that_are_each_in_time_are_no_hang() -> None:
    died = threading.Event()
    backend = FakeBackend(lambda _: time.sleep(0.1))
    engine = Engine(backend, Scheduler(100_000, turn_tokens=10), 10, on_death=died.set, pass_timeout=0.4)
    engine.start()
    assert len(outputs(engine.submit([item(1) for _ in range(10)]))) == 10
    assert not died.wait(0.6)  # nor is it one to have nothing to do
    engine.close(WAIT)


def test_close_drops_what_is_not_done_in_time_and_says_how_much() -> None:
    gate = Gate()
    engine = Engine(FakeBackend(gate), Scheduler(100_000, turn_tokens=8), 8)
    engine.start()
    futures = [engine.submit([item(1), item(2)]) for _ in range(3)]
    assert gate.entered.wait(WAIT)
    assert engine.close(0.1) == 3
    for future in futures:
        with pytest.raises(NotReady, match="shutting down, and had no time left"):
            future.result(WAIT)
    gate.open()


@pytest.mark.parametrize("error", [BackendLost, SystemExit])
def test_a_dead_model_thread_fails_everything_that_waits(start: Start, error: type[BaseException]) -> None:
    gate = Gate()
    die = raise_on_poison(error)

    def check(items: Sequence[EncodedItem]) -> None:
        gate(items)
        die(items)

    engine = start(FakeBackend(check), budget=30)
    doomed = engine.submit([item(1, length=20, marker=POISON)])
    assert gate.entered.wait(WAIT)
    waiting = [engine.submit([item(1, length=25)]) for _ in range(3)]
    gate.open()
    for future in [doomed, *waiting]:
        with pytest.raises(NotReady, match="the model thread died"):
            future.result(WAIT)
    assert engine.death is not None
    assert "poisoned" in engine.death
    with pytest.raises(NotReady, match="died"):
        engine.submit([item(1)])
    assert engine.queued_tokens == 0


def test_what_a_cancelled_request_has_left_is_never_computed(start: Start) -> None:
    gate = Gate()
    backend = FakeBackend(gate)
    engine = start(backend, budget=12)
    future = engine.submit([item(1, length=10) for _ in range(50)])
    assert gate.entered.wait(WAIT)
    assert future.cancel()
    assert engine.queued_tokens == 0
    gate.open()
    assert outputs(engine.submit([item(2)])) == [1.0]
    assert backend.computed == 2
    with pytest.raises(CancelledError):
        future.result(WAIT)


def test_close_finishes_what_was_admitted_and_refuses_the_rest(start: Start) -> None:
    gate = Gate()
    engine = start(FakeBackend(gate), budget=8)
    futures = [engine.submit([item(1), item(2)]) for _ in range(3)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(NotReady, match="shutting down"):
        submit_until_refused(engine)
    gate.open()
    closing.join(WAIT)
    assert not closing.is_alive()
    assert [outputs(future) for future in futures] == [[0.0, 1.0]] * 3


def test_many_threads_submitting_and_cancelling_get_their_own_results(start: Start) -> None:
    engine = start(FakeBackend(), budget=64)

    def submit(seed: int) -> int:
        right = 0
        for turn in range(40):
            shared = [(seed + turn + n) % 9 for n in range(1 + turn % 7)]
            future = engine.submit([item(count, length=count) for count in shared])
            if turn % 3 == 0 and future.cancel():
                continue
            assert outputs(future) == [count - 1.0 for count in shared]
            right += 1
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(right >= 26 for right in pool.map(submit, range(8)))
    assert engine.queued_tokens == 0


def test_observers_see_batches_and_the_queue() -> None:
    batches: list[int] = []
    queue: list[int] = []
    engine = Engine(
        FakeBackend(), Scheduler(1000, turn_tokens=100), 100, on_batch=batches.append, on_queue=queue.append
    )
    engine.start()
    one = item(1)
    engine.submit([one, one]).result(WAIT)
    engine.close(WAIT)
    assert sum(batches) == 2 * len(one)
    assert max(queue) == 2 * len(one)
    assert queue[-1] == 0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_batch_is_begun_while_another_is_computed_and_no_more(start: Start) -> None:
    gate = Gate()
    device = Device(gate)
    engine = start(device, budget=8)
    futures = [engine.submit([item(2)]) for _ in range(4)]
    until(lambda: device.begun == 2)
    time.sleep(0.05)
    assert device.begun == 2
    assert engine.queued_tokens > 0
    gate.open()
    assert [outputs(future) for future in futures] == [[1.0]] * 4


def test_a_lone_request_is_not_kept_for_the_next(start: Start) -> None:
    engine = start(Device())
    assert outputs(engine.submit([item(3), item(1)])) == [2.0, 0.0]
    assert outputs(engine.submit([item(2)])) == [1.0]


@pytest.mark.parametrize("marker", [POISON, Device.FULL], ids=["while it is computed", "when it is begun"])
def test_what_fails_on_a_device_fails_alone(start: Start, marker: int) -> None:
    device = Device(raise_on_poison(RuntimeError))
    engine = start(device, budget=40)
    futures = [engine.submit([item(number % 3 + 1, marker=marker if number == 5 else 1)]) for number in range(20)]
    for number, future in enumerate(futures):
        if number == 5 and marker == POISON:
            with pytest.raises(InferenceFailed):
                future.result(WAIT)
        else:
            assert outputs(future) == [number % 3]
    assert engine.death is None


def test_a_device_that_hangs_fails_the_pass_it_computes_and_the_one_begun() -> None:
    gate, died = Gate(), threading.Event()
    device = Device(gate)
    engine = Engine(device, Scheduler(100_000, turn_tokens=8), 8, on_death=died.set, pass_timeout=0.3)
    engine.start()
    doomed = [engine.submit([item(2)]) for _ in range(3)]
    for future in doomed:
        with pytest.raises(NotReady, match="hangs"):
            future.result(WAIT)
    assert died.wait(WAIT)
    gate.open()
    engine.close(WAIT)


def test_what_was_begun_is_delivered_before_the_engine_closes() -> None:
    gate = Gate()
    device = Device(gate)
    engine = Engine(device, Scheduler(100_000, turn_tokens=8), 8)
    engine.start()
    futures = [engine.submit([item(2)]) for _ in range(3)]
    until(lambda: device.begun == 2)
    threading.Timer(0.1, gate.open).start()
    assert engine.close(WAIT) == 0
    assert [outputs(future) for future in futures] == [[1.0]] * 3


def test_the_speed_of_a_device_counts_each_second_once() -> None:
    """The queue's drain rate is what callers are told to wait by."""
    scheduler = Scheduler(100_000, turn_tokens=8)
    spans: list[float] = []
    completed = scheduler.completed
    scheduler.completed = lambda tokens, seconds: (spans.append(seconds), completed(tokens, seconds))[1]  # type: ignore[method-assign]
    engine = Engine(Device(lambda _: time.sleep(0.05)), scheduler, 8)
    engine.start()
    begin = time.perf_counter()
    for future in [engine.submit([item(2)]) for _ in range(6)]:
        outputs(future)
    elapsed = time.perf_counter() - begin
    engine.close(WAIT)
    assert 0.28 < sum(spans) <= elapsed + 0.01
