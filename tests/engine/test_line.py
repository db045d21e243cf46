"""The line at its end: lanes leave it when nothing may come back, and not before."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from reranker_serve.backends.fake import FakeBackend
from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.line import Line
from reranker_serve.errors import BackendLost
from reranker_serve.types import EncodedItem
from tests.engine.test_engine import WAIT, item, outputs, submit, until


def admission(lanes: int) -> Admission:
    """It knows that they are equally fast."""
    made = Admission(100_000, math.inf, [200] * lanes)
    for lane in range(lanes):
        made.learn(200, 0.01, 0.0, lane)
    return made


def test_a_lane_that_leaves_the_last_work_to_another_stays_until_that_is_done() -> None:
    """Who comes first to what is too little to be shared may leave it to a lane that is going to be lost."""

    def lose(items: Sequence[EncodedItem]) -> None:
        raise BackendLost("gone")

    for _ in range(60):
        engine = Engine([FakeBackend(lose), FakeBackend()], admission(2))
        engine.start()
        time.sleep(0.002)
        future = submit(engine, [item(2)])
        assert engine.close(WAIT) == 0
        assert outputs(future) == [1.0]


def test_a_lane_that_is_lost_while_it_has_nothing_to_do_is_left_nothing_at_the_end() -> None:
    """Its watchdog may come too late for the pass that took too long."""
    line = Line(admission(3), lambda tokens: None, lambda seconds: None)
    taken = []
    for lane in range(3):
        line.begin(lane)
    for lane in (1, 2):  # before there is anybody to share with
        line.add([item(1)], Promise(0, math.inf))
        assert len(line.take(lane, ())) == 1

    def run(lane: int) -> None:
        while batch := line.take(lane, ()):
            taken.append((lane, len(batch)))
        line.end(lane)

    idle = threading.Thread(target=run, args=(0,), daemon=True)
    idle.start()
    time.sleep(0.05)
    closing = threading.Thread(target=line.close, args=(WAIT,), daemon=True)
    closing.start()
    time.sleep(0.05)
    line.lose(0, "hangs", thread_ended=False)
    until(lambda: not idle.is_alive())
    line.lose(2, "gone", thread_ended=True)
    run(1)
    closing.join(WAIT)
    assert (taken, line.tokens) == ([(1, 1)], 0)
