"""What routing and scaling by seconds promise, on a virtual clock: no timing of this machine."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from benchmarks.fleet.clock import Fleet, Habits
from benchmarks.fleet.load import SMALL, documents, mean_documents, requests
from benchmarks.fleet.replica import Replica, Request
from benchmarks.fleet.routers import ROUTERS, routers
from benchmarks.fleet.routing import Case, measure
from benchmarks.fleet.scaling import Clairvoyant, Day, OngoingRequests, Seconds
from benchmarks.fleet.scaling import measure as measure_day


@pytest.mark.parametrize(
    ("case", "half"),
    [
        (Case(10, 1), 0.5),
        (Case(10, 3), 0.6),
        (Case(100, 5), 0.3),
        (Case(100, 20, period=10.0), 0.7),
        (Case(100, 5, guess_error=None), 0.5),
        (Case(100, 5, spread=0.3), 0.5),
    ],
    ids=["alone", "three routers", "five routers", "old reports", "sizes unseen", "speeds differ"],
)
def test_waiting_is_far_shorter_than_with_two_choices_by_requests(case: Case, half: float) -> None:
    ours, two = (measure(case, kind, 10_000, 1) for kind in ("seconds", "two choices"))
    assert ours.p99 < half * two.p99
    assert not ours.refused
    assert not ours.lost


def test_one_router_chooses_nearly_as_well_as_who_sees_every_queue() -> None:
    ours, oracle = (measure(Case(10, 1), kind, 10_000, 1) for kind in ("seconds", "oracle"))
    assert ours.p99 < 1.3 * oracle.p99
    assert ours.answer_p99 < 1.05 * oracle.answer_p99


def test_a_dead_replica_costs_what_it_had_and_no_more() -> None:
    found = measure(Case(20, 3, life=600.0), "seconds", 10_000, 1)
    assert 0 < found.lost < 0.003
    assert found.p99 < 3


def test_a_day_costs_little_more_than_for_who_knows_the_day_and_waits_are_short() -> None:
    one = Day("short", 4, 40, 5400.0)
    ours = measure_day(one, "ours", Seconds(200), "seconds", 1)
    known = measure_day(one, "known", Clairvoyant(one.busy, 0.5), "oracle", 1, start=0.0)
    by_requests = measure_day(one, "requests", OngoingRequests(200), "two choices", 1)
    assert ours.cost < 1.15 * known.cost
    assert ours.p99 < 1.5 * known.p99
    assert 3 * ours.p99 < by_requests.p99
    assert ours.refused < 0.001


# The simulation itself.


def test_a_replica_computes_small_requests_between_the_passes_of_a_large_one() -> None:
    replica = Replica(0, pass_seconds=1.0)
    large, small = Request(0.0, 10.0, 10.0), Request(0.5, 0.5, 0.5)
    assert replica.take(large, 0.0) == 1.0
    assert replica.take(small, 0.5) is None
    assert replica.waiting(0.5) == 10.0
    assert replica.end(1.0) is None
    assert replica.begin(1.0) == 1.5
    assert replica.end(1.5) is small
    assert small.wait == 0.5
    assert replica.begin(1.5) == 2.5


def test_a_replica_refuses_what_would_wait_too_long_but_not_for_what_is_larger() -> None:
    replica = Replica(0, pass_seconds=1.0)
    for _ in range(4):
        replica.take(Request(0.0, 8.0, 8.0), 0.0)
    assert not replica.admits(Request(0.0, 8.0, 8.0), 0.0)
    assert replica.admits(Request(0.0, 1.0, 1.0), 0.0)


def test_everything_that_comes_is_answered_and_takes_its_time() -> None:
    for kind in ROUTERS:
        fleet = Fleet(Habits(SMALL.pass_seconds), routers(kind, 2, Random(1)), 3, Random(2))
        seen = fleet.run(requests(SMALL, lambda _: 1.5, 1.5, 200.0, np.random.default_rng(1), 0.25))
        assert len(seen) > 500
        assert min(one.wait for one in seen) > -1e-6
        assert max(one.wait for one in seen) < 60
        computed = sum(one.computed(fleet.now) for one in fleet.serving)
        assert computed == pytest.approx(sum(one.seconds for one in seen))


def test_sizes_are_between_10_and_1000_and_have_the_mean_that_loads_are_made_of() -> None:
    drawn = documents(np.random.default_rng(1), 400_000)
    assert drawn.min() >= 10
    assert drawn.max() <= 1000
    assert drawn.mean() == pytest.approx(mean_documents(), rel=0.02)


def test_what_is_paid_is_the_time_from_order_to_end() -> None:
    fleet = Fleet(Habits(1.0, start=60.0), routers("oracle", 1, Random(1)), 2, Random(2))
    fleet.at(100.0, lambda: fleet.scale(3))
    fleet.at(300.0, lambda: fleet.scale(1))
    fleet.until(400.0)
    assert len(fleet.serving) == 1
    assert fleet.seconds(400.0) == pytest.approx(300 + 400 + 200)
