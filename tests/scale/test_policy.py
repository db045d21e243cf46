"""Which replica a request goes to, and how many there should be, as tables."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from random import Random

import pytest

from reranker_serve.scale.policy import Report, Routing, Scaling, share

A, B, C = "a", "b", "c"


def routing(**waiting: float) -> Routing[str]:
    """Of replicas that reported so many seconds at time 0, a unit of work taking a second on each."""
    made = Routing[str](Random(1))
    for name, seconds in waiting.items():
        made.report(name, Report(0.0, seconds, pace=1.0))
    return made


def test_the_least_waiting_seconds_come_first() -> None:
    assert routing(a=3, b=1, c=2).choose([A, B, C], 1, 0) == [B, C, A]


def test_only_candidates_are_chosen() -> None:
    assert routing(a=3, b=1, c=2).choose([A, C], 1, 0) == [C, A]
    assert routing(a=3).choose([], 1, 0) == []


def test_what_was_sent_since_the_report_counts() -> None:
    made = routing(a=0, b=1)
    made.sent(A, 1, 1.5, 0)
    assert made.choose([A, B], 1, 0) == [B, A]
    made.sent(B, 2, 1, 0)
    assert made.choose([A, B], 1, 0) == [A, B]


def test_time_passes_for_what_waits_but_not_below_nothing() -> None:
    made = routing(a=1, b=4)
    made.sent(A, 1, 3.5, 2)  # A was empty since 1
    assert made.choose([A, B], 1, 2) == [B, A]
    made.sent(B, 2, 1, 2)
    assert made.choose([A, B], 1, 2) == [B, A]
    made.sent(B, 3, 1, 2)
    assert made.choose([A, B], 1, 2) == [A, B]


def test_a_report_of_before_does_not_forget_what_was_sent_after_it() -> None:
    made = routing(a=0, b=0)
    made.sent(A, 1, 5, 1)
    made.sent(A, 2, 5, 3)
    made.report(A, Report(2.0, 4, pace=1.0))
    made.report(B, Report(2.0, 7.5, pace=1.0))
    assert made.choose([A, B], 1, 3) == [B, A]  # A has 8 left then, B 6.5


def test_an_older_report_is_passed_over() -> None:
    made = routing(a=2, b=1)
    made.report(A, Report(-1.0, 0, pace=1.0))
    assert made.choose([A, B], 1, 0) == [B, A]


def test_a_fast_replica_gets_the_large_request() -> None:
    made = Routing[str](Random(1))
    made.report(A, Report(0, 2, pace=0.1))
    made.report(B, Report(0, 0, pace=1.0))
    assert made.choose([A, B], 1, 0) == [B, A]
    assert made.choose([A, B], 10, 0) == [A, B]


def test_a_replica_that_did_not_report_yet_counts_as_empty_and_of_the_common_pace() -> None:
    made = routing(a=1)
    assert made.choose([A, B], 1, 0) == [B, A]
    made.sent(B, 1, 3, 0)
    assert made.choose([A, B], 1, 0) == [A, B]


def test_a_replica_that_went_is_forgotten() -> None:
    made = routing(a=9, b=1)
    made.gone(A)
    made.gone(A)
    made.done(A, 1)
    assert made.choose([A, B], 1, 0) == [A, B]


def test_equal_ones_are_chosen_by_chance() -> None:
    made = routing(a=1, b=1, c=1)
    chosen = Counter(made.choose([A, B, C], 1, 0)[0] for _ in range(300))
    assert min(chosen[A], chosen[B], chosen[C]) > 60


def test_of_very_many_some_are_looked_at() -> None:
    made = Routing[int](Random(1))
    ranked = made.choose(range(1000), 1, 0)
    assert len(set(ranked)) == len(ranked) == 32


def test_what_has_no_answer_is_mostly_still_to_do_whatever_the_clock_says() -> None:
    made = routing(a=0, b=5)
    made.sent(A, 1, 10, 0)
    assert made.choose([A, B], 1, 30) == [B, A]  # A should be done, and is not
    made.done(A, 1)
    made.done(A, 1)
    made.sent(B, 2, 1, 30)
    assert made.choose([A, B], 1, 30) == [A, B]


def test_what_is_answered_does_not_wait_whatever_was_thought_of_it() -> None:
    made = routing(a=0, b=1)
    made.sent(A, 1, 10, 0)
    assert made.choose([A, B], 1, 0.5) == [B, A]
    made.done(A, 1)
    assert made.choose([A, B], 1, 0.5) == [A, B]


def test_what_others_had_sent_waits_beside_what_this_router_has_out() -> None:
    made = routing(a=0, b=0)
    made.sent(A, 1, 3, 0)
    made.sent(B, 2, 3, 0)
    made.report(A, Report(1.0, 6, pace=1.0))  # 3 of them another's, at least
    made.report(B, Report(1.0, 2, pace=1.0))
    made.done(A, 1)
    assert made.choose([A, B], 1, 1) == [B, A]
    assert made.choose([A, B], 1, 2.5) == [A, B]


def test_memory_does_not_grow_with_requests_to_a_replica_that_never_reports() -> None:
    made = Routing[str](Random(1))
    tracemalloc.start()
    for request in range(20_000):
        made.sent(A, request, 1, request / 10)
        made.done(A, request)
        if request == 2000:
            before = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000


def test_away_is_nobody_asked_as_long_as_one_at_home_is_nearly_free() -> None:
    made = routing(a=0.5, b=0.7, c=0)
    made.settle([A, B])
    made.sent("other", 1, 1, 0)  # a common request takes a second
    assert made.choose([A, B, C], 1, 0) == [A, B]
    made.settle([])
    assert made.choose([A, B, C], 1, 0) == [C, A, B]


def test_away_must_be_ahead_by_half_a_common_request() -> None:
    made = routing(a=3, b=2.6, c=0)
    made.settle([A])
    made.sent("other", 1, 1, 0)
    assert made.choose([A, B, C], 1, 0) == [C, A, B]


def test_what_costs_nothing_is_no_common_request() -> None:
    made = routing(a=1.5, b=0)
    made.settle([A])
    for number in range(200):
        made.sent(A, number, 4 * (number % 2), 0)
        made.done(A, number)
    made.report(A, Report(1.0, 1.5, pace=1.0))
    assert made.choose([A, B], 1, 1.0) == [A]


def test_a_home_of_which_nothing_is_left_means_all() -> None:
    made = routing(a=2, b=1)
    made.settle(["dead"])
    assert made.choose([A, B], 1, 0) == [B, A]


@pytest.mark.parametrize(("replicas", "routers"), [(10, 3), (3, 3), (7, 1), (2, 5), (0, 2)])
def test_every_replica_is_home_to_a_router_and_every_router_has_one(replicas: int, routers: int) -> None:
    homes = [share(range(replicas), router, routers) for router in range(routers)]
    assert {one for home in homes for one in home} == set(range(replicas))
    if replicas:
        assert max(map(len, homes)) - min(map(len, homes)) <= 1
        assert all(homes)
    if routers <= replicas:
        assert sum(map(len, homes)) == replicas


# How many there should be.


def reports(number: int, busy: float, waiting: float = 0.0) -> list[Report]:
    return [Report(0.0, waiting, busy=busy) for _ in range(number)]


def run(scaling: Scaling, seen: list[Report], current: int, start: float, end: float) -> int:
    """What is desired at the end, asked every second; what is desired is there at once."""
    for second in range(int(start), int(end) + 1):
        current = scaling.desired(seen, current, float(second))
    return current


@pytest.mark.parametrize(
    ("number", "busy", "waiting", "expected"),
    [
        (4, 1.0, 1.0, 6),  # 4 busy, and their root beside them
        (4, 0.25, 0.0, 4),  # 1 busy: two would do, but the down delay is not over
        (2, 0.5, 60.0, 12),  # 120 s wait, 10 at each
        (100, 0.9, 5.0, 100),  # 90 busy, 100 in all
        (50, 1.0, 500.0, 200),  # never more than most
    ],
)
def test_up_to_what_was_wanted_throughout_the_delay(number: int, busy: float, waiting: float, expected: int) -> None:
    scaling = Scaling(most=200, up_delay=20)
    assert run(scaling, reports(number, busy, waiting), number, 0, 19) == number
    assert scaling.desired(reports(number, busy, waiting), number, 20.0) == expected


def test_a_short_peak_does_not_scale_up() -> None:
    scaling = Scaling(up_delay=20)
    run(scaling, reports(2, 0.2), 2, 0, 30)
    assert run(scaling, reports(2, 1.0, 100), 2, 31, 45) == 2
    assert run(scaling, reports(2, 0.2), 2, 46, 60) == 2


def test_down_to_the_most_that_was_wanted_in_the_delay() -> None:
    scaling = Scaling(most=50, up_delay=20, down_delay=300)
    assert run(scaling, reports(20, 0.8), 21, 0, 100) == 21
    # What was busy is remembered for a minute.
    assert run(scaling, reports(20, 0.19), 21, 101, 380) > 15
    assert run(scaling, reports(20, 0.19), 21, 381, 2000) == 6


def test_never_fewer_than_least_and_the_last_one_stays_unless_that_is_none() -> None:
    assert run(Scaling(least=3), [], 5, 0, 4000) == 3
    assert run(Scaling(least=1), [], 5, 0, 4000) == 1


def test_to_zero_when_nothing_came_for_long_and_back_at_once() -> None:
    scaling = Scaling(least=0, to_zero_delay=600)
    assert run(scaling, reports(1, 0.1), 1, 0, 100) == 1
    assert run(scaling, reports(1, 0.0), 1, 101, 690) == 1
    assert run(scaling, reports(1, 0.0), 1, 691, 702) == 0
    assert scaling.desired([], 0, 703.0) == 0
    assert scaling.desired([], 0, 704.0, pending=2) == 1
    assert scaling.desired([], 1, 705.0) == 1  # it is starting
