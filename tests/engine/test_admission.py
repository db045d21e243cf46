from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.engine.admission import Admission, ByteBudget, CharacterBudget, Promise
from reranker_serve.errors import DeadlineExceeded, NoMemory, Overloaded, RequestError, RequestTooLarge

SPEED = 100  # tokens a second


def admission(
    max_tokens: int = 1_000_000, max_seconds: float = 30.0, speed: float | None = SPEED, jitter: float = 0.0
) -> Admission:
    """A pass of ten tokens takes a tenth of a second."""
    made = Admission(max_tokens, max_seconds, pass_tokens=[10], jitter=lambda: jitter)
    if speed is not None:
        made.learn(10, 10 / speed, 0.0)
    return made


def promise(seconds: float, due: float = 300.0, priority: int = 0, firm: bool = True) -> Promise:
    """Of a request that takes so long to compute."""
    return Promise(round(seconds * SPEED), due, priority, firm)


def filled(*promises: Promise, now: float = 0.0, **facts: float) -> Admission:
    made = admission(**facts)  # type: ignore[arg-type]
    for one in promises:
        made.admit(one, now)
    return made


def test_a_request_comes_in_if_it_can_be_done_in_time_beside_what_waits() -> None:
    line = filled(*[promise(1, due=6) for _ in range(3)])
    line.admit(promise(1, due=6), 0.0)  # 0.1 for a pass, 3 / 0.8 for what is before it, 1 for itself: 4.85
    with pytest.raises(Overloaded, match="4 s of work wait, and this takes 1 s; retry in 1 s"):
        line.admit(promise(1, due=6), 0.0)  # 6.1
    line.admit(promise(1, due=6.2), 0.0)


def test_what_is_computed_makes_room() -> None:
    first = promise(4, due=6)
    line = filled(first)
    with pytest.raises(Overloaded):
        line.admit(promise(1, due=6), 0.0)
    line.reduce(first, 200)
    line.admit(promise(1, due=8), 2.0)
    line.forget(first)
    line.forget(first)
    line.reduce(first, 100)
    assert line.tokens == 100


def test_nobody_comes_in_who_would_make_another_late() -> None:
    line = filled(promise(5, due=9))
    with pytest.raises(Overloaded):
        line.admit(promise(3, due=8), 0.0)  # done in time itself, if computed first
    line.admit(promise(2, due=8), 0.0)


def test_who_is_late_already_keeps_nobody_out() -> None:
    line = filled(promise(5, due=9))
    line.admit(promise(0.5, due=8.9), 8.0)
    assert line.tokens == 550


def test_a_large_request_that_waits_longer_does_not_keep_small_ones_out() -> None:
    """They are computed before it, so its 100 seconds are not before theirs."""
    line = filled(promise(100))
    line.admit(promise(0.1), 0.0)
    line.admit(promise(0.1, due=1), 0.0)
    assert line.tokens == 10_020


def test_who_has_little_time_comes_in_before_those_who_have_much() -> None:
    line = filled(*[promise(1, due=100) for _ in range(10)])
    line.admit(promise(1, due=2), 0.0)
    with pytest.raises(Overloaded):
        line.admit(promise(1, due=2), 0.0)


def test_the_queue_is_as_long_as_the_seconds_say() -> None:
    line = filled(*[promise(10) for _ in range(4)], max_seconds=30.0)
    with pytest.raises(Overloaded, match="40 s of work wait; retry in 10 s"):
        line.admit(promise(10), 0.0)
    line.admit(promise(10, priority=-1), 0.0)
    line.admit(promise(1), 0.0)


def test_alone_a_request_may_take_all_of_its_time_and_more_than_the_queue_is_long() -> None:
    assert filled(promise(299, due=300)).tokens == 29_900


def test_what_could_not_be_done_in_time_even_alone_is_told_at_once() -> None:
    line = filled(promise(0.1))
    with pytest.raises(DeadlineExceeded, match=r"take about 5 s and is to be done within 2 s"):
        line.admit(promise(5, due=2), 0.0)


def test_an_idle_server_tries_what_may_be_possible_as_its_speed_may_have_changed() -> None:
    filled(promise(5, due=2))
    with pytest.raises(DeadlineExceeded):
        filled(promise(9, due=2))


def test_an_idle_server_that_computed_nothing_for_a_while_tries_anything() -> None:
    """Else a speed measured in the worst of times would keep everyone out for ever."""
    line = admission()
    with pytest.raises(DeadlineExceeded):
        line.admit(promise(50, due=2), 0.0)
    line.admit(promise(50, due=13), 11.0)
    with pytest.raises(RequestError):
        line.admit(promise(50, due=13), 11.0)


def test_who_takes_what_there_is_keeps_no_firm_request_out() -> None:
    line = filled(promise(100, due=40, firm=False))
    line.admit(promise(100), 0.0)
    assert line.tokens == 20_000


def test_who_takes_what_there_is_comes_in_as_long_as_there_is_time_for_something() -> None:
    line = filled(promise(1, due=6), promise(1, due=6))
    line.admit(promise(50, due=3, firm=False), 0.0)
    with pytest.raises(Overloaded):
        line.admit(promise(50, due=1.9, firm=False), 0.0)
    line.admit(promise(3, due=8), 0.0)  # it is in nobody's way


def test_a_request_is_admitted_whole_or_not_at_all() -> None:
    line = filled(promise(6), max_tokens=1000)
    with pytest.raises(Overloaded, match="600 of 1000 queue tokens are taken"):
        line.admit(promise(4.01), 0.0)
    assert line.tokens == 600
    line.admit(promise(4), 0.0)
    assert line.tokens == 1000


def test_a_request_that_can_never_fit_is_too_large_rather_than_refused_for_now() -> None:
    with pytest.raises(RequestTooLarge, match=r"101 tokens.*at most 100"):
        admission(100).admit(promise(1.01), 0.0)


def test_a_guess_above_the_limit_is_no_reason_to_refuse() -> None:
    line = admission(100)
    guessed = promise(2)
    line.admit(guessed, 0.0, least=50)
    line.correct(guessed, 100, 0.0)
    assert line.tokens == 100


def test_a_guess_that_is_large_keeps_nobody_out_of_the_queue() -> None:
    """While 15 MB are tokenized, of which most will be cut off, others come in."""
    line = admission(100)
    line.admit(promise(1), 0.0, least=5)
    line.admit(promise(0.95), 0.0)
    with pytest.raises(Overloaded):
        line.admit(promise(0.01), 0.0)


def test_a_guess_that_was_too_low_counts_as_if_the_request_came_now() -> None:
    line = filled(promise(3, due=6))
    guessed = promise(1, due=6)
    line.admit(guessed, 0.0)
    with pytest.raises(Overloaded):
        line.correct(guessed, 400, 0.0)
    assert line.tokens == 300
    line.correct(guessed, 50, 0.0)
    assert line.tokens == 350


def test_as_long_as_the_speed_is_not_known_tokens_alone_decide() -> None:
    line = filled(promise(1000, due=1), speed=None)  # type: ignore[arg-type]
    line.admit(promise(1000, due=1), 0.0)
    assert line.pressing(0.5) == -math.inf


@pytest.mark.parametrize(
    ("speed", "cost", "jitter", "seconds"),
    [
        (None, 50, 0.0, 1),
        (10, 50, 0.0, 5),
        (10, 55, 0.0, 6),
        (1000, 50, 0.0, 1),
        (0.01, 50, 0.0, 600),
        (10, 50, 0.9, 8),
    ],
)
def test_callers_are_told_when_there_will_be_room(speed: float | None, cost: int, jitter: float, seconds: int) -> None:
    line = admission(100, math.inf, speed, jitter)
    line.admit(Promise(100, math.inf), 0.0)
    with pytest.raises(Overloaded) as refused:
        line.admit(Promise(cost, math.inf), 0.0)
    assert refused.value.retry_after == seconds
    assert f"retry in {seconds} s" in str(refused.value)


def test_due_times_press_when_there_is_no_time_for_something_else() -> None:
    line = filled(promise(2, due=6), promise(2, due=9))
    assert [line.pressing(now) for now in (0.0, 3.4, 3.6)] == [-math.inf, -math.inf, 6.0]


def test_the_last_due_time_that_presses_is_told_and_what_is_lost_presses_no_longer() -> None:
    line = filled(promise(2, due=6), promise(2, due=6.2), promise(1, due=30), now=-5)
    assert line.pressing(1.5) == 6.2
    assert line.pressing(4.1) == 6.2
    assert line.pressing(5.0) == -math.inf


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["admit", "part", "reduce", "forget", "correct"]), st.integers(1, 400), st.floats(0.1, 10)
        ),
        max_size=60,
    )
)
def test_the_books_are_kept_whatever_comes(steps: list[tuple[str, int, float]]) -> None:
    line = admission(max_tokens=1500)
    held: list[Promise] = []
    for step, tokens, due in steps:
        one = held[tokens % len(held)] if held else Promise(0, 0.0)
        if step in ("admit", "part"):
            one = Promise(tokens, due, tokens % 3, step == "admit")
            try:
                line.admit(one, 0.0)
                held.append(one)
            except RequestError:
                pass
        elif step == "reduce":
            line.reduce(one, min(one.tokens, tokens))
        elif held and step == "forget":
            line.forget(one)
            held.remove(one)
        elif held:
            try:
                line.correct(one, tokens, 0.0)
            except RequestError:
                held.remove(one)
    assert line.tokens == sum(one.certain for one in held) <= 1500
    assert line._firm_tokens == sum(one.tokens for one in held if one.firm)
    for one in held:
        line.forget(one)
    assert (line.tokens, line._firm, line._sizes) == (0, [], {})


def test_bytes_beyond_the_limit_are_refused_and_those_given_back_free() -> None:
    budget = ByteBudget(100)
    budget.take(100)
    with pytest.raises(NoMemory, match="100 bytes of request bodies, of 100 at most"):
        budget.take(1)
    budget.give_back(50)
    budget.take(50)
    assert budget.taken == 100


def test_any_text_may_be_tokenized_alone_but_not_beside_too_many_others() -> None:
    budget = CharacterBudget(100)
    budget.take(1000)
    with pytest.raises(Overloaded, match="1000 characters wait to be tokenized, of 100 at most"):
        budget.take(1)
    budget.give_back(1000)
    budget.take(60)
    budget.take(40)


def test_what_waits_is_told_in_seconds() -> None:
    first = promise(2)
    line = filled(first, promise(1, firm=False))
    assert line.seconds == pytest.approx(3)
    line.reduce(first, SPEED)
    assert line.seconds == pytest.approx(2)
    line.forget(first)
    assert line.seconds == pytest.approx(1)
    assert filled(promise(1), speed=None).seconds == 0
