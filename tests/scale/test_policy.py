"""Which replica a request goes to, and how many there should be, as tables."""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random

import pytest

from reranker_serve.scale.policy import Report, Routing, Scaling

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


def with_others(share: float, age: float) -> Routing[str]:
    """Three replicas of 0, 1 and 20 s at `age` ago, to each of which others send `share` seconds a second."""
    made = Routing[str](Random(1))
    for second in range(200):
        for name, waiting in ((A, 0.0), (B, 1.0), (C, 20.0)):
            made.report(name, Report(float(second), waiting, pace=1.0, busy=share))
    return made


def test_routers_that_see_the_same_reports_do_not_all_choose_the_same_replica() -> None:
    made = with_others(0.8, 2)
    chosen = Counter(made.choose([A, B, C], 1, 200.5)[0] for _ in range(1000))
    # 0.5 s less is 0, 0.5 and 19.5 s; others sent 3 * 0.8 * 1.5 = 3.6 s since, which fill the first two up to 2.05.
    assert 450 < chosen[A] < 700
    assert chosen[A] + chosen[B] == 1000


def test_one_that_is_alone_takes_the_best() -> None:
    made = Routing[str](Random(1))
    requests = count()
    for second in range(200):
        for name, waiting in ((A, 0.0), (B, 1.0), (C, 20.0)):
            made.report(name, Report(float(second), waiting, pace=1.0, busy=0.8))
            made.sent(name, next(requests), 0.8, second + 0.5)
    assert {made.choose([A, B, C], 1, 200.5)[0] for _ in range(100)} == {A}


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
    # The root falls with what is busy, which is remembered for a minute.
    assert run(scaling, reports(20, 0.2), 21, 101, 380) > 15
    assert run(scaling, reports(20, 0.19), 21, 381, 1000) == 6


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
