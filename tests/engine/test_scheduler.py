from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.engine.admission import Promise
from reranker_serve.engine.job import Job, Unit
from reranker_serve.engine.pace import Paces
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.types import EncodedItem


def item(length: int, prefix: np.ndarray | None = None) -> EncodedItem:
    return EncodedItem(np.ones(length, dtype=np.int32), length, prefix)


def job(*lengths: int, at: float = 0.0, due: float = math.inf, priority: int = 0, firm: bool = True) -> Job:
    return Job([item(length) for length in lengths], at, Promise(sum(lengths), due, priority, firm))


def job_with_prefixes(*parts: tuple[int, tuple[int, ...]]) -> Job:
    """Of each part a prefix of so many tokens, and the lengths of the items that share it."""
    items = []
    for length, lengths in parts:
        shared = np.ones(length, dtype=np.int32)
        items += [item(own, shared) for own in lengths]
    return Job(items, 0.0)


def pace(tokens_per_second: float = 100.0) -> Paces:
    known = Paces([math.inf])
    known.learn(10_000, 10_000 / tokens_per_second)
    return known


def scheduler(*jobs: Job, speed: float = 100.0) -> Scheduler:
    line = Scheduler(pace(speed))
    for one in jobs:
        line.add(one)
    return line


def tokens(batch: list[Unit]) -> int:
    return sum(len(unit.item) for unit in batch)


def jobs_of(batch: list[Unit]) -> list[Job]:
    return list(dict.fromkeys(unit.job for unit in batch))


def test_a_request_alone_fills_the_budget() -> None:
    line = scheduler(job(*[5] * 10))
    assert [tokens(line.next_batch(20)) for _ in range(3)] == [20, 20, 10]
    assert line.next_batch(20) == []


def test_the_longest_items_go_first() -> None:
    batch = scheduler(job(1, 9, 3)).next_batch(100)
    assert [unit.position for unit in batch] == [1, 2, 0]


def test_who_takes_what_there_is_gets_the_first_ones_first() -> None:
    batch = scheduler(job(1, 9, 3, due=10, firm=False)).next_batch(100)
    assert [unit.position for unit in batch] == [0, 1, 2]


def test_every_batch_pays_for_the_prefix_once() -> None:
    line = scheduler(job_with_prefixes((8, (4,) * 10)))
    assert line.queued_tokens == 48
    assert [tokens(line.next_batch(20)) for _ in range(4)] == [12, 12, 12, 4]
    assert line.queued_tokens == 0


def test_items_of_one_prefix_stand_together_and_each_prefix_is_paid_for() -> None:
    line = scheduler(job_with_prefixes((8, (4, 6)), (3, (5, 1)), (8, (2,))))
    assert line.queued_tokens == 37
    batch = line.next_batch(8 + 6 + 4 + 3 + 5)
    assert [unit.position for unit in batch] == [1, 0, 2]
    assert line.queued_tokens == 1 + 3 + 8 + 2  # the second prefix once more: an item of it waits
    assert [unit.position for unit in line.next_batch(100)] == [3, 4]
    assert line.queued_tokens == 0


def test_a_prefix_that_does_not_fit_beside_others_waits() -> None:
    line = scheduler(job(10), job_with_prefixes((8, (4,))))
    assert [tokens(line.next_batch(20)) for _ in range(2)] == [10, 4]


def test_an_item_over_the_budget_goes_alone() -> None:
    line = scheduler(job(50, 5))
    assert [len(unit.item) for unit in line.next_batch(20)] == [50]
    assert [len(unit.item) for unit in line.next_batch(20)] == [5]


def test_ten_documents_never_wait_behind_a_thousand() -> None:
    large = job(*[5] * 1000)
    line = scheduler(large)
    line.next_batch(50)
    small = job(*[5] * 10, at=1.0)
    line.add(small)
    assert jobs_of(line.next_batch(50)) == [small]
    assert jobs_of(line.next_batch(50)) == [large]


def test_a_pass_that_finishes_ten_documents_is_not_filled_with_a_thousand() -> None:
    large, small = job(*[5] * 1000), job(*[5] * 4, at=1.0)
    line = scheduler(large, small)
    assert [unit.job for unit in line.next_batch(100)] == [small] * 4 + [large] * 6
    assert jobs_of(line.next_batch(100)) == [large]


def test_it_is_filled_with_others_that_it_finishes_and_so_is_one_that_only_ends_a_request() -> None:
    line = scheduler(*[job(*[5] * 4, at=number / 10) for number in range(9)])
    assert tokens(line.next_batch(100)) == 100
    ending, large = job(*[5] * 21), job(*[5] * 1000)
    line = scheduler(ending, large)
    line.next_batch(100)
    assert [unit.job for unit in line.next_batch(100)] == [ending] + [large] * 19


def test_three_thousand_queries_are_one_request_beside_others() -> None:
    many = job_with_prefixes(*[(8, (5,))] * 3000)
    line = scheduler(many)
    line.next_batch(50)
    small = job(*[5] * 10, at=1.0)
    line.add(small)
    assert jobs_of(line.next_batch(50)) == [small]


def test_of_requests_alike_one_is_finished_before_the_next_is_begun() -> None:
    jobs = [job(*[10] * 5, at=number / 10) for number in range(3)]
    line = scheduler(*jobs)
    served = [unit.job for _ in range(8) for unit in line.next_batch(20)]
    assert served == [one for one in jobs for _ in range(5)]


def test_one_that_was_begun_is_finished_before_one_alike_that_came_since() -> None:
    first = job(*[10] * 10)
    line = scheduler(first)
    line.next_batch(50)
    line.add(job(*[10] * 10, at=0.5))
    assert jobs_of(line.next_batch(50)) == [first]


def test_requests_alike_keep_their_order_when_the_machine_becomes_faster() -> None:
    """What came in slow times would else count ten times its seconds of then, and be passed for as long."""
    known = pace(10.0)
    line = Scheduler(known)
    early = [job(*[10] * 10, at=0.0) for _ in range(2)]
    for one in early:
        line.add(one)
    for _ in range(100):
        known.learn(10_000, 10_000 / 100.0)
    late = job(*[10] * 10, at=1.0)
    line.add(late)
    served = [unit.job for _ in range(15) for unit in line.next_batch(20)]
    assert list(dict.fromkeys(served)) == [*early, late]


def test_a_thousand_documents_are_passed_by_small_requests_only_for_so_long() -> None:
    """Of two seconds of computing (at 100 tokens a second): for ten times that."""
    large = job(*[10] * 20)
    line = scheduler(large)
    second = 0.0
    while large.has_waiting:
        line.add(job(10, at=second))
        line.next_batch(10)
        second += 0.1
        assert second < 25
    assert second > 15


def test_a_lower_priority_number_is_served_first() -> None:
    late, usual, urgent = job(10, priority=5), job(10), job(10, 10, priority=-(10**40))
    assert jobs_of(scheduler(late, usual, urgent).next_batch(40)) == [urgent, usual, late]


def test_what_is_due_goes_first_in_the_order_in_which_it_is_due() -> None:
    small, early, late, unpromised = job(1), job(5, 5, due=3), job(5, due=5), job(5, due=1, firm=False)
    line = scheduler(small, late, early, unpromised)
    assert jobs_of(line.next_batch(16, pressing=5.0)) == [early, late, small]


def test_a_pass_for_who_takes_what_there_is_takes_half_of_the_time_left() -> None:
    line = scheduler(job(*[10] * 100, due=10.0, firm=False))
    assert [tokens(line.next_batch(1000, now)) for now in (0.0, 5.0, 7.5, 9.99)] == [500, 250, 120, 10]


def test_a_dropped_job_is_never_handed_out_and_frees_its_tokens() -> None:
    first, second = job(5, 5), job(5)
    line = scheduler(first, second)
    line.drop(first)
    line.drop(first)
    assert line.queued_tokens == 5
    assert jobs_of(line.next_batch(100)) == [second]


def test_a_job_dropped_half_way_frees_only_what_was_waiting() -> None:
    one = job(5, 5, 5)
    line = scheduler(one)
    line.next_batch(5)
    assert line.queued_tokens == 10
    line.drop(one)
    assert line.queued_tokens == 0


def test_requests_that_were_given_up_are_not_kept_behind_others() -> None:
    """Their texts would stay in memory for as long as smaller ones keep coming."""
    line = scheduler(job(1))
    for _ in range(1000):
        gone = job(*[10] * 5)
        line.add(gone)
        line.drop(gone)
    assert len(line._places) < 100


def test_requests_that_were_finished_because_they_were_due_are_not_kept_behind_others() -> None:
    line = scheduler()
    for number in range(1000):
        line.add(job(5, at=float(number)))
        line.add(job(5, at=float(number), due=1.0, priority=9))
        line.next_batch(5, pressing=1.0)
        line.next_batch(5)
    assert len(line._places) < 100


def test_a_job_of_nothing_is_refused_as_it_would_block_the_line() -> None:
    with pytest.raises(ValueError, match="no items"):
        job()


def test_clear_empties_the_line() -> None:
    jobs = [job(5), job(6)]
    line = scheduler(*jobs)
    assert line.clear() == jobs
    assert (line.queued_tokens, line.next_batch(10)) == (0, [])


@given(
    requests=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=20), max_size=8),
    budget=st.integers(1, 60),
    pressing=st.floats(0, 8),
)
def test_every_item_is_handed_out_exactly_once_within_the_budget(
    requests: list[list[int]], budget: int, pressing: float
) -> None:
    jobs = [
        job(*lengths, priority=len(lengths) % 3, due=float(at), firm=at % 4 > 0) for at, lengths in enumerate(requests)
    ]
    line = scheduler(*jobs)
    seen = []
    while batch := line.next_batch(budget, 0.0, pressing):
        assert tokens(batch) <= budget or len(batch) == 1
        seen += [(id(unit.job), unit.position) for unit in batch]
    expected = [(id(one), position) for one in jobs for position in range(len(one.items))]
    assert sorted(seen) == sorted(expected)
    assert line.queued_tokens == 0


@given(
    steps=st.lists(
        st.tuples(st.just("add"), st.lists(st.integers(1, 30), min_size=1, max_size=8))
        | st.tuples(st.sampled_from(["drop", "batch"]), st.integers(0, 60)),
        max_size=40,
    )
)
def test_adding_dropping_and_handing_out_in_any_order_keeps_the_books(steps: list[tuple[str, int | list[int]]]) -> None:
    line = scheduler()
    waiting: dict[Job, set[int]] = {}
    for step, value in steps:
        if isinstance(value, list):
            one = job(*value)
            line.add(one)
            waiting[one] = set(range(len(value)))
        elif step == "drop" and waiting:
            gone = list(waiting)[value % len(waiting)]
            line.drop(gone)
            del waiting[gone]
        else:
            for unit in line.next_batch(value):
                waiting[unit.job].remove(unit.position)
        left = sum(len(one.items[position]) for one, positions in waiting.items() for position in positions)
        assert line.queued_tokens == left
