from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.engine.job import Job, Unit
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.errors import Overloaded, RequestTooLarge
from reranker_serve.types import EncodedItem


def job(*lengths: int, priority: int = 0) -> Job:
    return Job([EncodedItem(np.ones(length, dtype=np.int32), length) for length in lengths], 0.0, priority)


def job_with_prefix(prefix: int, *lengths: int) -> Job:
    shared = np.ones(prefix, dtype=np.int32)
    return Job([EncodedItem(np.ones(length, dtype=np.int32), length, shared) for length in lengths], submitted_at=0.0)


def scheduler(*jobs: Job, limit: int = 10_000, turn: int = 10) -> Scheduler:
    line = Scheduler(max_queue_tokens=limit, turn_tokens=turn)
    for one in jobs:
        line.admit(one)
    return line


def tokens(batch: list[Unit]) -> int:
    return sum(len(unit.item) for unit in batch)


def test_a_request_alone_fills_the_budget() -> None:
    line = scheduler(job(*[5] * 10))
    assert [tokens(line.next_batch(20)) for _ in range(3)] == [20, 20, 10]
    assert line.next_batch(20) == []


def test_the_longest_items_go_first() -> None:
    batch = scheduler(job(1, 9, 3)).next_batch(100)
    assert [unit.position for unit in batch] == [1, 2, 0]


def test_every_batch_pays_for_the_prefix_once() -> None:
    line = scheduler(job_with_prefix(8, *[4] * 10), turn=20)
    assert line.queued_tokens == 48
    assert [tokens(line.next_batch(20)) for _ in range(4)] == [12, 12, 12, 4]
    assert line.queued_tokens == 0


def test_a_second_turn_in_a_batch_does_not_pay_for_the_prefix_again() -> None:
    line = scheduler(job_with_prefix(8, *[4] * 20), job(*[1] * 50), turn=16)
    line.next_batch(20)
    line.next_batch(20)
    batch = line.next_batch(41)
    assert [unit.item.prefix is None for unit in batch].count(False) == 4
    assert tokens(batch) == 41 - 8 - 1


def test_a_prefix_that_does_not_fit_beside_others_waits() -> None:
    line = scheduler(job(10), job_with_prefix(8, 4), turn=10)
    assert [tokens(line.next_batch(20)) for _ in range(2)] == [10, 4]


def test_an_item_over_the_budget_goes_alone() -> None:
    line = scheduler(job(50, 5), turn=10)
    assert [len(unit.item) for unit in line.next_batch(20)] == [50]
    assert [len(unit.item) for unit in line.next_batch(20)] == [5]


def test_an_item_longer_than_a_turn_joins_a_batch_that_has_room() -> None:
    line = scheduler(job(4), job(15), turn=10)
    assert sorted(len(unit.item) for unit in line.next_batch(20)) == [4, 15]


def test_requests_take_turns_within_a_batch() -> None:
    one, other = job(*[5] * 100), job(*[5] * 100)
    line = scheduler(one, other)
    assert {unit.job for unit in line.next_batch(40)} == {one}
    assert {unit.job for unit in line.next_batch(40)} == {other}
    assert [unit.job for unit in line.next_batch(40)] == [one, one, other, other] * 2


def test_ten_documents_never_wait_behind_a_thousand() -> None:
    large = job(*[5] * 1000)
    line = scheduler(large)
    line.next_batch(50)
    small = job(*[5] * 10)
    line.admit(small)
    assert {unit.job for unit in line.next_batch(50)} == {small}
    assert {unit.job for unit in line.next_batch(50)} == {large}


def test_a_thousand_documents_are_never_held_up_by_one_small_request_after_the_other() -> None:
    large = job(*[10] * 100)
    line = scheduler(large)
    line.next_batch(20)
    served: list[Job] = []
    for _ in range(16):
        line.admit(job(10, 10))
        served += [unit.job for unit in line.next_batch(20)]
    # Every fourth turn, of at most ten tokens.
    assert served.count(large) >= 16 * 2 // 8


def test_a_new_request_that_finds_a_batch_half_full_keeps_its_place() -> None:
    one, other = job(10), job(*[10] * 5)
    line = scheduler(one, other)
    assert [unit.job for unit in line.next_batch(20)] == [one, other]
    line.admit(job(10, 10))
    assert [unit.job for unit in line.next_batch(20)] == [other, other]


def test_a_batch_smaller_than_a_turn_ends_the_turn() -> None:
    line = scheduler(job(*[5] * 100), turn=50)
    line.next_batch(10)
    small = job(5, 5)
    line.admit(small)
    assert {unit.job for unit in line.next_batch(10)} == {small}
    patient = job(*[5] * 8)
    line.admit(patient)
    for _ in range(8):
        line.next_batch(10)
    assert not patient.has_waiting


def test_with_more_requests_than_turns_in_a_batch_everyone_is_served_in_rounds() -> None:
    jobs = [job(10, 10, 10, 10) for _ in range(6)]
    line = scheduler(*jobs)
    assert [unit.job for _ in range(6) for unit in line.next_batch(20)] == [one for one in jobs for _ in range(2)]
    assert [unit.job for _ in range(3) for unit in line.next_batch(20)] == jobs


def test_a_lower_priority_number_is_served_first() -> None:
    late, usual, urgent = job(10, priority=5), job(10), job(10, priority=-3)
    line = scheduler(late, usual, urgent)
    assert [unit.job for unit in line.next_batch(30)] == [urgent, usual, late]


def test_whoever_waited_longest_gets_every_fourth_turn_whatever_its_priority() -> None:
    patient = job(*[10] * 4, priority=100)
    line = scheduler(patient, *[job(*[10] * 100, priority=-priority) for priority in (100, 99)])
    served = [unit.job for _ in range(16) for unit in line.next_batch(10)]
    assert [turn for turn, one in enumerate(served) if one is patient] == [3, 11]


def test_a_batch_without_room_for_the_next_in_turn_does_not_cost_its_turn() -> None:
    long, short = job(10, priority=-1), job(4, 4, priority=0)
    line = scheduler(short, long)
    line.next_batch(10)
    assert [unit.job for unit in line.next_batch(10)] == [short, short]


@pytest.mark.parametrize(("given", "kept"), [(10**40, 1000), (-(10**40), -1000), (7, 7)])
def test_a_priority_beyond_all_bounds_is_the_last_one(given: int, kept: int) -> None:
    assert job(1, priority=given).priority == kept


def test_a_dropped_job_is_never_handed_out_and_frees_its_tokens() -> None:
    first, second = job(5, 5), job(5)
    line = scheduler(first, second)
    line.drop(first)
    line.drop(first)
    assert line.queued_tokens == 5
    assert [unit.job for unit in line.next_batch(100)] == [second]


def test_a_job_dropped_half_way_frees_only_what_was_waiting() -> None:
    one = job(5, 5, 5)
    line = scheduler(one)
    line.next_batch(5)
    assert line.queued_tokens == 10
    line.drop(one)
    assert line.queued_tokens == 0


def test_a_request_is_admitted_whole_or_not_at_all() -> None:
    line = scheduler(job(60), limit=100)
    with pytest.raises(Overloaded):
        line.admit(job(30, 30))
    with pytest.raises(Overloaded):
        line.admit(job(41))
    assert line.queued_tokens == 60
    line.admit(job(40))
    assert line.queued_tokens == 100


def test_a_request_that_can_never_fit_is_too_large_rather_than_refused_for_now() -> None:
    with pytest.raises(RequestTooLarge, match=r"101 tokens.*at most 100"):
        scheduler(limit=100).admit(job(101))


@pytest.mark.parametrize(
    ("rate", "queued", "cost", "seconds"),
    [(None, 100, 50, 1), (10.0, 100, 50, 5), (10.0, 100, 55, 6), (1000.0, 100, 50, 1), (0.01, 100, 50, 600)],
)
def test_retry_after_is_what_must_drain_over_the_measured_rate(
    rate: float | None, queued: int, cost: int, seconds: int
) -> None:
    line = scheduler(job(queued), limit=100)
    if rate is not None:
        line.completed(1000, 1000 / rate)
    with pytest.raises(Overloaded) as refused:
        line.admit(job(cost))
    assert refused.value.retry_after == seconds
    assert f"retry in {seconds} s" in str(refused.value)


def test_the_rate_follows_slowly_and_ignores_a_stopped_clock() -> None:
    line = scheduler(job(100), limit=100)
    line.completed(100, 1.0)
    line.completed(100, 0.0)
    line.completed(200, 1.0)
    with pytest.raises(Overloaded) as refused:
        line.admit(job(100))
    assert refused.value.retry_after == 1  # 100 tokens at 120 a second
    for _ in range(100):
        line.completed(10, 1.0)
    with pytest.raises(Overloaded) as refused:
        line.admit(job(100))
    assert refused.value.retry_after == 10


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
    turn=st.integers(1, 40),
)
def test_every_item_is_handed_out_exactly_once_within_the_budget(
    requests: list[list[int]], budget: int, turn: int
) -> None:
    jobs = [job(*lengths, priority=len(lengths) % 3) for lengths in requests]
    line = scheduler(*jobs, turn=turn)
    seen = []
    while batch := line.next_batch(budget):
        assert tokens(batch) <= budget or len(batch) == 1
        seen += [(id(unit.job), unit.position) for unit in batch]
    expected = [(id(one), position) for one in jobs for position in range(len(one.items))]
    assert sorted(seen) == sorted(expected)
    assert line.queued_tokens == 0


@given(
    steps=st.lists(
        st.tuples(st.just("admit"), st.lists(st.integers(1, 30), min_size=1, max_size=8))
        | st.tuples(st.sampled_from(["drop", "batch"]), st.integers(0, 60)),
        max_size=40,
    )
)
def test_admitting_dropping_and_handing_out_in_any_order_keeps_the_books(
    steps: list[tuple[str, int | list[int]]],
) -> None:
    line = scheduler(limit=150, turn=10)
    waiting: dict[Job, set[int]] = {}
    for step, value in steps:
        if isinstance(value, list):
            one = job(*value)
            fits = line.queued_tokens + sum(value) <= 150
            try:
                line.admit(one)
                waiting[one] = set(range(len(value)))
                assert fits
            except (Overloaded, RequestTooLarge):
                assert not fits
        elif step == "drop" and waiting:
            gone = list(waiting)[value % len(waiting)]
            line.drop(gone)
            del waiting[gone]
        else:
            for unit in line.next_batch(value):
                waiting[unit.job].remove(unit.position)
        left = sum(len(one.items[position]) for one, positions in waiting.items() for position in positions)
        assert line.queued_tokens == left
