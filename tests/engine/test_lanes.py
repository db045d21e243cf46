"""Several lanes pull from one line: as fast as all of them, in the order of one, and nothing is lost with a lane."""

from __future__ import annotations

import gc
import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from reranker_serve.backends.fake import FakeBackend
from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.job import Job, JobResult
from reranker_serve.engine.pace import Paces
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.errors import BackendLost, InferenceFailed, NotReady
from reranker_serve.types import EncodedItem, FloatArray, count_tokens
from tests.engine.test_engine import POISON, WAIT, Gate, item, outputs, raise_on_poison, submit, until

BUDGET = 200
RATE = 20_000.0  # tokens a second of a lane
OVERHEAD = 0.001


class Lane(FakeBackend):
    """A device that takes time: `rate` tokens a second, and a millisecond a pass. `hook` sees each batch first."""

    def __init__(
        self, name: str = "fake:0", rate: float = RATE, hook: Callable[[Sequence[EncodedItem]], None] = lambda _: None
    ) -> None:
        super().__init__(self._compute)
        self.device = name
        self.rate = rate
        self.hook = hook
        self.passes: list[list[EncodedItem]] = []

    def _compute(self, items: Sequence[EncodedItem]) -> None:
        self.passes.append(list(items))
        self.hook(items)
        time.sleep(OVERHEAD + count_tokens(items) / self.rate)

    @property
    def tokens(self) -> int:
        return sum(count_tokens(items) for items in self.passes)


def lanes(count: int, rate: float = RATE) -> list[Lane]:
    return [Lane(f"fake:{number}", rate) for number in range(count)]


def made(backends: Sequence[FakeBackend], budget: int = BUDGET, timeout: float = 60.0, **on: object) -> Engine:
    """An engine that has measured each lane that takes time."""
    admission = Admission(10_000_000, math.inf, [budget] * len(backends))
    for number, backend in enumerate(backends):
        if isinstance(backend, Lane):
            admission.learn(budget, OVERHEAD + budget / backend.rate, 0.0, number)
    engine = Engine(backends, admission, pass_timeout=timeout, **on)  # type: ignore[arg-type]
    engine.start()
    return engine


@pytest.fixture
def begin() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def start(backends: Sequence[FakeBackend], **facts: object) -> Engine:
        engines.append(made(backends, **facts))  # type: ignore[arg-type]
        return engines[-1]

    yield start
    for engine in engines:
        engine.close(WAIT)


Begin = Callable[..., Engine]


def seconds_for(count: int, documents: int = 3200) -> float:
    """Until so many documents of ten callers are scored."""
    engine = made(lanes(count, rate=8000.0))
    start = time.perf_counter()
    futures = [submit(engine, [item(2, length=5)] * (documents // 10)) for _ in range(10)]
    for future in futures:
        future.result(60)
    seconds = time.perf_counter() - start
    assert engine.close(WAIT) == 0
    return seconds


@pytest.mark.alone
@pytest.mark.parametrize(("count", "factor"), [(2, 1.9), (8, 7.2)])
def test_lanes_are_as_fast_as_all_of_them_together(count: int, factor: float) -> None:
    assert seconds_for(1) / seconds_for(count) >= factor


@pytest.mark.alone
def test_one_request_uses_all_lanes_that_have_nothing_to_do(begin: Begin) -> None:
    """Its documents would fit one pass."""

    def seconds(count: int) -> float:
        engine = begin(lanes(count, rate=2000.0), budget=1000)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            assert outputs(submit(engine, [item(2, length=5)] * 40)) == [1.0] * 40
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(1) / seconds(4) >= 3


def test_what_is_small_is_not_shared(begin: Begin) -> None:
    backends = lanes(4, rate=1e6)
    engine = begin(backends)
    for _ in range(5):
        outputs(submit(engine, [item(2)] * 10))
    assert sum(len(backend.passes) for backend in backends) == 5


def test_a_slow_lane_takes_less(begin: Begin) -> None:
    fast, slow = Lane("fake:0"), Lane("fake:1", rate=RATE / 5)
    engine = begin([fast, slow])
    for future in [submit(engine, [item(2, length=5)] * 100) for _ in range(20)]:
        future.result(WAIT)
    assert fast.tokens > 2 * slow.tokens > 0


def test_results_are_in_the_order_submitted_whichever_lane_computes_them(begin: Begin) -> None:
    engine = begin(lanes(4), budget=30)
    shared = [number % 7 for number in range(300)]
    assert outputs(submit(engine, [item(count) for count in shared])) == [count - 1.0 for count in shared]


def test_many_callers_get_their_own_results(begin: Begin) -> None:
    engine = begin([FakeBackend() for _ in range(4)], budget=64)

    def work(seed: int) -> None:
        for turn in range(40):
            shared = [(seed + turn + n) % 9 for n in range(1 + turn % 7)]
            future = submit(engine, [item(count, length=count) for count in shared])
            if turn % 3 == 0 and future.cancel():
                continue
            assert outputs(future) == [count - 1.0 for count in shared]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert engine.queued_tokens == 0


def finished(count: int) -> list[str]:
    """In which order these are done, of which one is large: three small ones came after it, each later."""
    engine = made(lanes(count, rate=4000.0), budget=100)
    done: list[str] = []

    def ask(name: str, documents: int) -> Future[JobResult]:
        future = submit(engine, [item(2, length=5)] * documents)
        future.add_done_callback(lambda _: done.append(name))
        return future

    futures = [ask("large", 400)]
    for name in ("first", "second", "third"):
        futures.append(ask(name, 30))
        time.sleep(0.03)
    for future in futures:
        future.result(WAIT)
    engine.close(WAIT)
    return done


@pytest.mark.alone
def test_who_asks_for_little_waits_little_in_the_order_of_one_lane() -> None:
    assert finished(1) == finished(3) == ["first", "second", "third", "large"]


def test_a_lost_lane_loses_nothing_but_itself(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    def lose(items: Sequence[EncodedItem]) -> None:
        raise BackendLost("the device is gone")

    lost: list[tuple[str, str]] = []
    engine = begin(
        [Lane("fake:0", hook=lose), *lanes(3)[1:]], on_loss=lambda device, reason: lost.append((device, reason))
    )
    futures = [submit(engine, [item(2), item(3), item(1)] * 20) for _ in range(10)]
    for future in futures:
        assert outputs(future) == [1.0, 2.0, 0.0] * 20
    assert engine.death is None
    assert [name for name, _ in lost] == ["fake:0"]
    assert [(lane.device, lane.reason) for lane in engine.lanes][1:] == [("fake:1", None), ("fake:2", None)]
    assert "the device is gone" in (engine.lanes[0].reason or "")
    assert "fake:0: the model thread died: BackendLost: the device is gone; the other devices go on" in caplog.text
    assert outputs(submit(engine, [item(5)])) == [4.0]


def test_the_rate_of_a_lost_lane_counts_no_more(begin: Begin) -> None:
    gate = Gate()

    def lose(items: Sequence[EncodedItem]) -> None:
        gate(items)
        raise BackendLost("gone")

    engine = begin([Lane("fake:0", hook=lose), Lane("fake:1", hook=gate)])
    with engine.admitted(Promise(10_000, math.inf), 1):
        both = engine.queued_seconds
        future = submit(engine, [item(2)] * 100)
        gate.open()
        outputs(future)
        until(lambda: engine.lanes[0].reason is not None)
        assert engine.queued_seconds > 1.5 * both


def poisonous(count: int) -> list[Lane]:
    die = raise_on_poison(BackendLost)
    return [Lane(f"fake:{number}", hook=die) for number in range(count)]


def test_what_kills_two_lanes_does_not_get_a_third(begin: Begin) -> None:
    engine = begin(poisonous(3))
    with pytest.raises(InferenceFailed, match="two devices were lost"):
        submit(engine, [item(1, marker=POISON)]).result(WAIT)
    assert [bool(lane.reason) for lane in engine.lanes].count(True) == 2
    assert outputs(submit(engine, [item(2)])) == [1.0]
    assert engine.death is None


def test_the_last_lane_is_the_engines_death(begin: Begin) -> None:
    died = threading.Event()
    engine = begin(poisonous(2), on_death=died.set)
    with pytest.raises(NotReady, match=r"fake:\d: the model thread died: BackendLost"):
        submit(engine, [item(1, marker=POISON)]).result(WAIT)
    assert died.wait(WAIT)
    with pytest.raises(NotReady, match="fake:"):
        submit(engine, [item(1)])
    assert engine.queued_tokens == 0


class Overlapping(Lane):
    """Computes by itself, one pass after the other."""

    def __init__(self, *facts: object, **more: object) -> None:
        super().__init__(*facts, **more)  # type: ignore[arg-type]
        self._stream = ThreadPoolExecutor(1)

    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], FloatArray]:
        return self._stream.submit(self.forward, items).result


@pytest.mark.parametrize("kind", [Lane, Overlapping])
def test_what_kills_two_lanes_fails_nobody_who_was_computed_beside_it(begin: Begin, kind: type[Lane]) -> None:
    gate, die = Gate(), raise_on_poison(BackendLost)

    def hook(items: Sequence[EncodedItem]) -> None:
        gate(items)
        die(items)

    engine = begin([kind(f"fake:{number}", hook=hook) for number in range(3)], budget=1000)
    futures = [submit(engine, [item(2)] * 200) for _ in range(3)]  # who comes next waits for these
    assert gate.entered.wait(WAIT)
    beside = [submit(engine, [item(3), item(1)]) for _ in range(10)]
    poison = submit(engine, [item(1, marker=POISON)])
    beside += [submit(engine, [item(3), item(1)]) for _ in range(10)]
    gate.open()
    with pytest.raises(InferenceFailed, match="two devices were lost"):
        poison.result(WAIT)
    for future in futures:
        assert outputs(future) == [1.0] * 200
    for future in beside:
        assert outputs(future) == [2.0, 0.0]


@pytest.mark.parametrize("kind", [Lane, Overlapping])
@pytest.mark.parametrize("end", ["dies", "hangs"])
def test_each_pass_that_a_lost_lane_began_is_told_to_be_over(begin: Begin, kind: type[Lane], end: str) -> None:
    gate, told = Gate(), []

    def hook(items: Sequence[EncodedItem]) -> None:
        gate(items)
        if end == "dies":
            raise BackendLost("gone")

    def on_pass(items: Sequence[EncodedItem]) -> Callable[[str | None], None]:
        told.append("begins")
        return lambda failure: told.append("over")

    timeout = 0.3 if end == "hangs" else WAIT
    engine = begin([kind("fake:0", hook=hook), kind("fake:1")], timeout=timeout, budget=20, on_pass=on_pass)
    future = submit(engine, [item(2)] * 8)
    assert gate.entered.wait(WAIT)
    if end == "hangs":
        until(lambda: engine.lanes[0].reason is not None)
    gate.open()
    assert outputs(future) == [1.0] * 8
    assert engine.close(WAIT) == 0
    until(lambda: told.count("begins") == told.count("over"))


@pytest.mark.parametrize("kind", [Lane, Overlapping])
def test_a_lane_that_waits_for_work_keeps_no_request_in_memory(begin: Begin, kind: type[Lane]) -> None:
    """It may wait for long, if what comes is always computed by another; and vectors are large."""
    engine = begin([kind("fake:0")])
    job = engine.submit([item(2)] * 4, Promise(0, math.inf))
    assert outputs(job.future) == [1.0] * 4
    kept = weakref.ref(job)
    del job
    until(lambda: gc.collect() >= 0 and kept() is None)


@pytest.mark.parametrize("kind", [Lane, Overlapping])
def test_a_lane_that_hangs_is_lost_and_delivers_nothing_twice(begin: Begin, kind: type[Lane]) -> None:
    gate, lost = Gate(), threading.Event()
    hangs = kind("fake:0", hook=gate)
    engine = begin([hangs, kind("fake:1")], timeout=0.3, budget=20, on_loss=lambda device, reason: lost.set())
    future = submit(engine, [item(count) for count in (2, 1, 3, 2, 4, 1)])
    assert gate.entered.wait(WAIT)
    assert outputs(future) == [1.0, 0.0, 2.0, 1.0, 3.0, 0.0]
    assert lost.wait(WAIT)
    assert "hangs" in (engine.lanes[0].reason or "")
    computed = hangs.computed
    waiting = [submit(engine, [item(2)] * 20) for _ in range(10)]
    gate.open()
    for each in waiting:
        assert outputs(each) == [1.0] * 20
    until(lambda: hangs.computed > computed)
    assert hangs.computed - computed <= 6  # what it had begun, and nothing after it
    assert engine.close(WAIT) == 0


def test_a_lane_that_comes_back_with_an_error_fails_nobody(begin: Begin) -> None:
    gate = Gate()

    def hook(items: Sequence[EncodedItem]) -> None:
        gate(items)
        raise ValueError("too late")

    engine = begin([Lane("fake:0", hook=hook), Lane("fake:1")], timeout=0.3, budget=1000)
    until_lost = submit(engine, [item(2)] * 4)
    assert gate.entered.wait(WAIT)
    gate_thread = threading.Timer(0.6, gate.open)
    gate_thread.start()
    assert outputs(until_lost) == [1.0] * 4
    gate_thread.join()
    assert outputs(submit(engine, [item(3)])) == [2.0]


def test_what_a_lost_lane_had_is_computed_before_the_engine_closes(begin: Begin) -> None:
    """The other lane has nothing to do by then, and waits for what may come back."""
    gate = Gate()

    def lose(items: Sequence[EncodedItem]) -> None:
        gate(items)
        raise BackendLost("gone")

    engine = begin([Lane("fake:0", hook=lose), Lane("fake:1")], budget=40)
    futures = [submit(engine, [item(2)] * 8) for _ in range(4)]
    assert gate.entered.wait(WAIT)
    until(lambda: engine.queued_tokens == 0)
    threading.Timer(0.3, gate.open).start()
    assert engine.close(WAIT) == 0
    assert [outputs(future) for future in futures] == [[1.0] * 8] * 4


def test_close_does_not_wait_for_a_lane_that_hangs(begin: Begin) -> None:
    gate = Gate()
    engine = begin([Lane("fake:0", hook=gate), Lane("fake:1")], timeout=0.3, budget=40)
    future = submit(engine, [item(2)] * 20)
    assert gate.entered.wait(WAIT)
    start = time.monotonic()
    assert engine.close(WAIT) == 0
    assert time.monotonic() - start < 3
    assert outputs(future) == [1.0] * 20
    gate.open()


def test_close_drops_what_several_lanes_have_not_done_in_time(begin: Begin) -> None:
    gate = Gate()
    engine = begin([Lane(f"fake:{number}", hook=gate) for number in range(2)], budget=8)
    futures = [submit(engine, [item(1), item(2)]) for _ in range(4)]
    assert gate.entered.wait(WAIT)
    assert engine.close(0.1) == 4
    for future in futures:
        with pytest.raises(NotReady, match="shutting down, and had no time left"):
            future.result(WAIT)
    gate.open()


def test_who_has_nothing_to_do_waits_for_nobody_when_all_is_given_up(begin: Begin) -> None:
    gate, before = Gate(), threading.active_count()
    engine = begin([Lane("fake:0", hook=gate), Lane("fake:1", hook=gate), Lane("fake:2")], budget=8)
    future = submit(engine, [item(1)])
    assert gate.entered.wait(WAIT)
    engine.close(0.1)
    with pytest.raises(NotReady):
        future.result(WAIT)
    until(lambda: threading.active_count() <= before + 1)
    gate.open()


def lost_with_work(begin: Begin, *, then: Callable[[Engine, Job], object]) -> tuple[Engine, Lane]:
    """A lane is lost with a request in hand for which `then` was called while the lane computed."""
    gates = [Gate(), Gate()]

    def lose(items: Sequence[EncodedItem]) -> None:
        gates[0](items)
        raise BackendLost("gone")

    other = Lane("fake:1", hook=gates[1])
    engine = begin([Lane("fake:0", hook=lose), other], budget=100)
    job = engine.submit([item(1, length=20)] * 40, Promise(0, math.inf))
    assert gates[0].entered.wait(WAIT)
    then(engine, job)
    gates[0].open()
    until(lambda: engine.lanes[0].reason is not None)
    gates[1].open()
    return engine, other


def test_what_was_cancelled_does_not_come_back_with_a_lost_lane(begin: Begin) -> None:
    engine, other = lost_with_work(begin, then=lambda engine, job: job.future.cancel())
    assert engine.queued_tokens == 0
    assert outputs(submit(engine, [item(3)])) == [2.0]
    assert len(other.passes) <= 2


def test_a_job_that_is_cut_does_not_come_back_with_a_lost_lane(begin: Begin) -> None:
    jobs = []

    def cut(engine: Engine, job: Job) -> None:
        engine.cut(job)
        jobs.append(job)

    engine, other = lost_with_work(begin, then=cut)
    assert jobs[0].future.result(WAIT).computed.sum() == 0
    assert engine.queued_tokens == 0
    assert outputs(submit(engine, [item(3)])) == [2.0]
    assert len(other.passes) <= 2


def test_a_prefix_that_comes_back_is_counted_once() -> None:
    prefix = np.ones(8, dtype=np.int32)
    job = Job([EncodedItem(np.ones(length, dtype=np.int32), length, prefix) for length in (4, 6, 5)], 0.0)
    line = Scheduler(Paces([100]))
    line.add(job)
    taken = line.next_batch(20)
    assert (job.waiting_tokens, line.queued_tokens, len(taken)) == (12, 12, 2)
    rest = line.next_batch(20)
    assert (job.waiting_tokens, line.queued_tokens, len(rest)) == (0, 0, 1)
    line.put_back(job, [unit.position for unit in taken])
    assert (job.waiting_tokens, line.queued_tokens) == (19, 19)
    assert [unit.position for unit in line.next_batch(100)] == [unit.position for unit in taken]
    line.drop(job)
    line.put_back(job, [unit.position for unit in rest])
    assert line.queued_tokens == 0
    assert line.next_batch(100) == []


class Mortal(Lane):
    """Dies, or hangs, in the pass after it was told to."""

    end: str | None = None

    def __init__(self, name: str) -> None:
        super().__init__(name, rate=200_000.0, hook=self._check)
        self.came_back = threading.Event()

    def _check(self, items: Sequence[EncodedItem]) -> None:
        if self.end == "dies":
            raise BackendLost("killed")
        if self.end == "hangs":
            self.came_back.wait(1.5)


class MortalOverlapping(Mortal):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._stream = ThreadPoolExecutor(1)

    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], FloatArray]:
        return self._stream.submit(self.forward, items).result


@pytest.mark.parametrize("seed", range(3))
def test_lanes_killed_at_random_under_load_lose_no_request(begin: Begin, seed: int) -> None:
    dice = random.Random(seed)
    backends = [dice.choice([Mortal, MortalOverlapping])(f"fake:{number}") for number in range(6)]
    engine = begin(backends, budget=150, timeout=0.4)
    over = threading.Event()
    pending: set[Future[JobResult]] = set()

    def call(number: int) -> int:
        own, answered = random.Random(100 * seed + number), 0
        while not over.is_set():
            shared = [own.randrange(9) for _ in range(own.randrange(1, 60))]
            items = [item(count, length=own.randrange(1, 20)) for count in shared]
            with engine.admitted(Promise(count_tokens(items), math.inf), 1) as promise:
                job = engine.submit(items, promise)
                future, end = job.future, own.random()
                pending.add(future)
                if end < 0.2:
                    time.sleep(end / 50)
                if not (end < 0.1 and future.cancel()):
                    if end < 0.2:
                        engine.cut(job)
                    found = future.result(WAIT)
                    assert end < 0.2 or found.computed.all()
                    expected = np.array(shared)[found.computed] - 1.0
                    np.testing.assert_array_equal(found.outputs[:, 0][found.computed], expected)
                    answered += 1
                pending.discard(future)
        return answered

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(call, number) for number in range(8)]
        for victim in dice.sample(backends, 5):
            time.sleep(dice.uniform(0.05, 0.3))
            victim.end = dice.choice(["dies", "hangs"])
            until(lambda name=victim.device: next(one for one in engine.lanes if one.device == name).reason is not None)
            # What is lost twice may be why.
            for future in list(pending):
                until(future.done)
        over.set()
        answered = sum(caller.result(WAIT) for caller in callers)
    assert answered > 100
    assert (engine.death, engine.queued_tokens, engine.queued_seconds) == (None, 0, 0.0)
    assert engine.close(WAIT) == 0
