from __future__ import annotations

import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from reranker_serve.backends.fake import FakeBackend
from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.job import Job, JobResult
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

    def begin(backend: FakeBackend, budget: int = 1000) -> Engine:
        engine = Engine([backend], admission(budget))
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


def admission(budget: int) -> Admission:
    return Admission(100_000, math.inf, [budget])


def submit(engine: Engine, items: Sequence[EncodedItem], promise: Promise | None = None) -> Future[JobResult]:
    return engine.submit(items, promise or Promise(0, math.inf)).future


def submit_until_refused(engine: Engine) -> None:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        submit(engine, [item(1)]).cancel()


def outputs(future: Future[JobResult]) -> list[float]:
    values: list[float] = future.result(WAIT).outputs[:, 0].tolist()
    return values


def test_results_come_in_the_order_submitted(start: Start) -> None:
    engine = start(FakeBackend(), budget=10)
    future = submit(engine, [item(3), item(1, length=20), item(2), item(0)])
    assert outputs(future) == [2.0, 0.0, 1.0, -1.0]


def test_times_are_told(start: Start) -> None:
    gate = Gate()
    engine = start(FakeBackend(gate))
    first = submit(engine, [item(1)])
    assert gate.entered.wait(WAIT)
    second = submit(engine, [item(1)])
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
    blocker = submit(engine, [item(1)])
    assert gate.entered.wait(WAIT)
    good = submit(engine, [item(2), item(3)])
    bad = submit(engine, [item(1), item(1, marker=POISON), item(2)])
    other = submit(engine, [item(4)])
    gate.open()
    assert outputs(blocker) == [0.0]
    assert outputs(good) == [1.0, 2.0]
    assert outputs(other) == [3.0]
    with pytest.raises(InferenceFailed, match="ValueError"):
        bad.result(WAIT)
    assert outputs(submit(engine, [item(2)])) == [1.0]


def test_what_a_failed_request_has_left_is_never_computed() -> None:
    queue: list[int] = []
    backend = FakeBackend(raise_on_poison(ValueError))
    engine = Engine([backend], admission(60), on_queue=queue.append)
    engine.start()
    # The poisoned item is the longest and so the first of the first batch.
    items = [item(1, length=10, marker=POISON), *[item(1) for _ in range(50)]]
    with pytest.raises(InferenceFailed):
        submit(engine, items).result(WAIT)
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
    assert outputs(submit(engine, [item(n) for n in range(7)])) == [n - 1.0 for n in range(7)]
    assert sizes[0] == 7
    assert max(sizes[-2:]) <= 2


def test_an_item_that_never_fits_fails_its_request(start: Start) -> None:
    engine = start(FakeBackend(raise_on_poison(OutOfMemory)))
    with pytest.raises(InferenceFailed, match="OutOfMemory"):
        submit(engine, [item(1), item(1, marker=POISON)]).result(WAIT)


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
    bad = submit(engine, [item(1), item(2, marker=POISON)])
    good = submit(engine, [item(3), item(2)])
    with pytest.raises(InferenceFailed):
        bad.result(WAIT)
    assert outputs(good) == [2.0, 1.0]
    assert engine.death is None


def test_a_pass_that_never_ends_is_the_engines_death(caplog: pytest.LogCaptureFixture) -> None:
    gate, died = Gate(), threading.Event()
    scheduler = admission(30)
    engine = Engine([FakeBackend(gate)], scheduler, on_death=died.set, pass_timeout=0.3)
    engine.start()
    start = time.perf_counter()
    doomed = [submit(engine, [item(1, length=25)]) for _ in range(3)]
    for future in doomed:
        with pytest.raises(NotReady, match=r"the model hangs: .* not done within 0\.3 s"):
            future.result(WAIT)
    assert 0.25 < time.perf_counter() - start < 3
    assert died.wait(WAIT)
    assert "3 request(s) that waited for it failed" in caplog.text
    with pytest.raises(NotReady, match="hangs"):
        submit(engine, [item(1)])
    gate.open()  # what hung comes back after all: too late, and harmless
    assert engine.close(WAIT) == 0


def test_many_passes_that_are_each_in_time_are_no_hang() -> None:
    died = threading.Event()
    backend = FakeBackend(lambda _: time.sleep(0.1))
    engine = Engine([backend], admission(10), on_death=died.set, pass_timeout=0.4)
    engine.start()
    assert len(outputs(submit(engine, [item(1) for _ in range(10)]))) == 10
    assert not died.wait(0.6)  # nor is it one to have nothing to do
    engine.close(WAIT)


def test_close_drops_what_is_not_done_in_time_and_says_how_much() -> None:
    gate = Gate()
    engine = Engine([FakeBackend(gate)], admission(8))
    engine.start()
    futures = [submit(engine, [item(1), item(2)]) for _ in range(3)]
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
    doomed = submit(engine, [item(1, length=20, marker=POISON)])
    assert gate.entered.wait(WAIT)
    waiting = [submit(engine, [item(1, length=25)]) for _ in range(3)]
    gate.open()
    for future in [doomed, *waiting]:
        with pytest.raises(NotReady, match="the model thread died"):
            future.result(WAIT)
    assert engine.death is not None
    assert "poisoned" in engine.death
    with pytest.raises(NotReady, match="died"):
        submit(engine, [item(1)])
    assert engine.queued_tokens == 0


def test_what_a_cancelled_request_has_left_is_never_computed(start: Start) -> None:
    gate = Gate()
    backend = FakeBackend(gate)
    engine = start(backend, budget=12)
    future = submit(engine, [item(1, length=10) for _ in range(50)])
    assert gate.entered.wait(WAIT)
    assert future.cancel()
    assert engine.queued_tokens == 0
    gate.open()
    assert outputs(submit(engine, [item(2)])) == [1.0]
    assert backend.computed == 2
    with pytest.raises(CancelledError):
        future.result(WAIT)


def test_close_finishes_what_was_admitted_and_refuses_the_rest(start: Start) -> None:
    gate = Gate()
    engine = start(FakeBackend(gate), budget=8)
    futures = [submit(engine, [item(1), item(2)]) for _ in range(3)]
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

    def work(seed: int) -> int:
        right = 0
        for turn in range(40):
            shared = [(seed + turn + n) % 9 for n in range(1 + turn % 7)]
            future = submit(engine, [item(count, length=count) for count in shared])
            if turn % 3 == 0 and future.cancel():
                continue
            assert outputs(future) == [count - 1.0 for count in shared]
            right += 1
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(right >= 26 for right in pool.map(work, range(8)))
    assert engine.queued_tokens == 0


def test_observers_see_batches_and_the_queue() -> None:
    batches: list[int] = []
    queue: list[int] = []
    engine = Engine(
        [FakeBackend()],
        admission(100),
        on_batch=lambda tokens, device: batches.append(tokens),
        on_queue=queue.append,
    )
    engine.start()
    one = item(1)
    submit(engine, [one, one]).result(WAIT)
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
    futures = [submit(engine, [item(2)]) for _ in range(4)]
    until(lambda: device.begun == 2)
    time.sleep(0.05)
    assert device.begun == 2
    assert engine.queued_tokens > 0
    gate.open()
    assert [outputs(future) for future in futures] == [[1.0]] * 4


def test_a_lone_request_is_not_kept_for_the_next(start: Start) -> None:
    engine = start(Device())
    assert outputs(submit(engine, [item(3), item(1)])) == [2.0, 0.0]
    assert outputs(submit(engine, [item(2)])) == [1.0]


@pytest.mark.parametrize("marker", [POISON, Device.FULL], ids=["while it is computed", "when it is begun"])
def test_what_fails_on_a_device_fails_alone(start: Start, marker: int) -> None:
    device = Device(raise_on_poison(RuntimeError))
    engine = start(device, budget=40)
    futures = [submit(engine, [item(number % 3 + 1, marker=marker if number == 5 else 1)]) for number in range(20)]
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
    engine = Engine([device], admission(8), on_death=died.set, pass_timeout=0.3)
    engine.start()
    doomed = [submit(engine, [item(2)]) for _ in range(3)]
    for future in doomed:
        with pytest.raises(NotReady, match="hangs"):
            future.result(WAIT)
    assert died.wait(WAIT)
    gate.open()
    engine.close(WAIT)


def test_what_was_begun_is_delivered_before_the_engine_closes() -> None:
    gate = Gate()
    device = Device(gate)
    engine = Engine([device], admission(8))
    engine.start()
    futures = [submit(engine, [item(2)]) for _ in range(3)]
    until(lambda: device.begun == 2)
    threading.Timer(0.1, gate.open).start()
    assert engine.close(WAIT) == 0
    assert [outputs(future) for future in futures] == [[1.0]] * 3


def test_the_speed_of_a_device_counts_each_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are let in, and callers told when to come back, by it."""
    spans: list[float] = []
    let_in = admission(8)
    monkeypatch.setattr(let_in.pace, "learn", lambda tokens, seconds, lane: spans.append(seconds))
    engine = Engine([Device(lambda _: time.sleep(0.05))], let_in)
    engine.start()
    begin = time.perf_counter()
    for future in [submit(engine, [item(2)]) for _ in range(6)]:
        outputs(future)
    elapsed = time.perf_counter() - begin
    engine.close(WAIT)
    assert 0.28 < sum(spans) <= elapsed + 0.01


class Tensor:
    """What a pass holds in memory."""


def test_a_failed_pass_holds_no_memory_while_its_halves_are_computed(start: Start) -> None:
    """On a GPU what fits when a batch is halved would not fit beside the tensors of the passes that failed."""
    held: list[weakref.ref[Tensor]] = []
    most = 0

    def compute(items: Sequence[EncodedItem]) -> None:
        nonlocal most
        activations = Tensor()
        gc.collect()
        most = max(most, sum(one() is not None for one in held))
        held.append(weakref.ref(activations))
        if any(POISON in one.ids for one in items):
            raise OutOfMemory("no memory")

    engine = start(FakeBackend(compute))
    future = submit(engine, [item(1, marker=POISON if number == 7 else 1) for number in range(16)])
    with pytest.raises(InferenceFailed):
        future.result(WAIT)
    assert len(held) == 8  # 16, 8, 4 and 4, 2 and 2, 1 and 1
    assert most == 0


def test_an_item_longer_than_a_pass_may_take_longer_than_one() -> None:
    engine = Engine([FakeBackend(lambda _: time.sleep(0.5))], admission(8), pass_timeout=0.2)
    engine.start()
    assert outputs(submit(engine, [item(1, length=30)])) == [0.0]
    assert engine.death is None
    engine.close(WAIT)


def test_a_job_that_is_cut_has_what_was_computed_of_it(start: Start) -> None:
    passes = threading.Semaphore(2)
    backend = FakeBackend(lambda _: passes.acquire(timeout=WAIT) or None)
    engine = start(backend, budget=8)
    job = engine.submit([item(shared) for shared in (2, 1, 2, 1)], Promise(0, time.monotonic() + WAIT, firm=False))
    until(lambda: backend.computed == 2)
    time.sleep(0.05)
    engine.cut(job)
    result = job.future.result(WAIT)
    assert result.computed.tolist() == [True, True, False, False]
    assert result.outputs[:2, 0].tolist() == [1.0, 0.0]
    assert engine.queued_tokens == 0
    passes.release(4)


class Vectors(FakeBackend):
    """At each position that is read a vector of the item's first id."""

    spoil: Callable[[list[FloatArray]], Any] = staticmethod(lambda vectors: vectors)

    def forward(self, items: Sequence[EncodedItem]) -> Any:
        super().forward(items)
        return self.spoil([np.full((len(one.read), 3), one.ids[0], dtype=np.float32) for one in items])  # type: ignore[arg-type]


def read(first: int, *positions: int) -> EncodedItem:
    return EncodedItem(np.array([first, 0, 2, 3], dtype=np.int32), 2, read=np.array(positions, dtype=np.int32))


def test_vectors_are_delivered_as_the_backend_made_them() -> None:
    engine = Engine([Vectors()], admission(8), width=3)
    engine.start()
    found = submit(engine, [read(5, 0, 1, 3), read(6, 2), read(7, 0, 3)]).result(WAIT).outputs
    engine.close(WAIT)
    assert [vectors.shape for vectors in found] == [(3, 3), (1, 3), (2, 3)]
    assert [vectors[0, 0] for vectors in found] == [5, 6, 7]


@pytest.mark.parametrize(
    "spoil", [lambda vectors: vectors[:-1], lambda vectors: [each[:, :2] for each in vectors], np.concatenate]
)
def test_vectors_of_a_wrong_shape_fail(spoil: Callable[[list[FloatArray]], Any], caplog: Any) -> None:
    backend = Vectors()
    backend.spoil = spoil
    engine = Engine([backend], admission(8), width=3)
    engine.start()
    with pytest.raises(InferenceFailed):
        submit(engine, [read(5, 0, 1), read(6, 2, 3)]).result(WAIT)
    engine.close(WAIT)
    assert "the backend returned numbers" in caplog.text


def test_vectors_that_were_not_computed_in_time_are_zeros() -> None:
    job = Job([read(5, 0, 1), read(6, 2)], 0.0)
    job.deliver(0, np.ones((2, 3), dtype=np.float32), 1.0)
    job.cut(1.0, 3)
    result = job.future.result(WAIT)
    assert result.computed.tolist() == [True, False]
    assert [vectors.tolist() for vectors in result.outputs] == [[[1.0] * 3] * 2, [[0.0] * 3]]


def test_a_pass_for_who_takes_what_there_is_is_done_before_its_time_is_over(start: Start) -> None:
    backend = FakeBackend(lambda items: time.sleep(0.01 * len(items)))
    engine = start(backend, budget=1000)
    submit(engine, [item(1, length=20)] * 40).result(WAIT)
    job = engine.submit([item(1, length=20)] * 100, Promise(0, time.monotonic() + 0.4, firm=False))
    threading.Timer(0.4, engine.cut, [job]).start()
    assert 10 <= job.future.result(WAIT).computed.sum() < 60


def test_observers_hear_of_a_pass_before_and_after_it() -> None:
    heard: list[tuple[str, int | str | None]] = []

    def on_pass(items: Sequence[EncodedItem]) -> Callable[[str | None], None]:
        heard.append(("begins", len(items)))
        return lambda failure: heard.append(("is over", failure))

    engine = Engine([Device(raise_on_poison(ValueError))], admission(40), on_pass=on_pass)
    engine.start()
    outputs(submit(engine, [item(1), item(2)]))
    with pytest.raises(InferenceFailed):
        outputs(submit(engine, [item(1, marker=POISON)]))
    engine.close(WAIT)
    assert heard == [("begins", 2), ("is over", None), ("begins", 1), ("is over", "ValueError")]


def test_what_leaves_is_no_longer_waited_for(start: Start) -> None:
    engine = start(FakeBackend())
    promise = Promise(10, math.inf)
    with engine.admitted(promise, 1), pytest.raises(InferenceFailed), engine.admitted(Promise(20, math.inf), 1):
        raise InferenceFailed("no tokenizer")
    with engine.admitted(Promise(100_000, math.inf), 100_000):
        pass


def test_a_pass_beside_one_that_failed_tells_nothing_of_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done while the halves of the other were computed, and would seem to have taken no time."""
    let_in, learned, gate = admission(40), list[float](), Gate()
    learn = let_in.learn
    monkeypatch.setattr(
        let_in, "learn", lambda tokens, seconds, now, lane: (learned.append(seconds), learn(tokens, seconds, now))
    )
    engine = Engine([Device(gate)], let_in)
    engine.start()
    slow = submit(engine, [item(1, length=30)])
    assert gate.entered.wait(WAIT)
    crowd = submit(engine, [item(1, length=10, marker=Device.FULL)] * 3)
    threading.Timer(0.2, gate.open).start()
    assert outputs(slow) == [0.0]
    assert outputs(crowd) == [0.0] * 3
    engine.close(WAIT)
    assert learned[0] >= 0.15


def test_what_was_done_when_a_job_is_cut_is_told_whole_or_not_at_all() -> None:
    """The model thread may be delivering at that moment."""
    for _ in range(300):
        job = Job([item(1), item(1)], 0.0)
        model = threading.Thread(target=job.deliver, args=(0, np.array([7.0], dtype=np.float32), 1.0))
        model.start()
        job.cut(1.0, 1)
        model.join()
        result = job.future.result(WAIT)
        assert (result.outputs[result.computed] == 7.0).all()


def test_the_pass_in_which_a_device_is_lost_is_told_of() -> None:
    over: list[str | None] = []
    device = Device(raise_on_poison(BackendLost))
    engine = Engine([device], admission(40), on_pass=lambda items: over.append)
    engine.start()
    with pytest.raises(NotReady):
        outputs(submit(engine, [item(1, marker=POISON)]))
    engine.close(WAIT)
    assert over == ["BackendLost"]
