"""Rates and shares of the last minute, and what each caller has had. The time is told."""

from __future__ import annotations

import pytest

from reranker_serve.telemetry.usage import Amount, Lately, Usage

MODEL = "a/model"
ONE = Amount(requests=1, documents=10, tokens=100, search_units=1)


def test_before_the_first_request_there_is_no_latency() -> None:
    assert Usage(100.0).lately(130.0) == Lately(0.0, 0.0, None, None)


def test_rates_are_those_of_the_last_minute() -> None:
    usage = Usage(0.0)
    usage.count(None, MODEL, 0.5, ONE, 10.0)
    for second in (70.0, 80.0, 90.0):
        usage.count(None, MODEL, 0.1, ONE, second)
    assert usage.lately(100.0) == Lately(3 / 60, 30 / 60, 0.1, 0.1)
    assert usage.lately(200.0) == Lately(0.0, 0.0, None, None)


def test_a_server_that_just_began_is_not_called_slow_for_the_minute_before() -> None:
    usage = Usage(100.0)
    usage.count(None, MODEL, 0.1, ONE, 100.01)
    assert usage.lately(100.02).requests_per_second == 1  # and not 50
    usage.count(None, MODEL, 0.1, ONE, 104.0)
    assert usage.lately(104.0).requests_per_second == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("seconds", "p50", "p95"), [([4.0], 4, 4), ([3.0, 1.0], 1, 3), ([float(n) for n in range(100, 0, -1)], 50, 95)]
)
def test_so_many_requests_took_no_longer(seconds: list[float], p50: float, p95: float) -> None:
    usage = Usage(0.0)
    for each in seconds:
        usage.count(None, MODEL, each, ONE, 1.0)
    lately = usage.lately(2.0)
    assert (lately.p50, lately.p95) == (p50, p95)


def test_of_more_requests_than_are_remembered_rates_are_still_true() -> None:
    usage = Usage(0.0, remembered=100)
    for tenth in range(1, 1001):
        usage.count(None, MODEL, 0.1, ONE, tenth / 10)
    lately = usage.lately(100.0)
    assert lately.requests_per_second == pytest.approx(10, rel=0.02)
    assert lately.pairs_per_second == pytest.approx(100, rel=0.02)
    assert usage.callers == {None: Amount(1000, 10_000, 100_000, 1000)}


def test_callers_are_counted_apart_and_for_as_long_as_the_process_lives() -> None:
    usage = Usage(0.0)
    usage.count("team-a", MODEL, 0.1, ONE, 1.0)
    usage.count("team-b", MODEL, 0.1, ONE, 2.0)
    usage.count("team-a", MODEL, 0.1, Amount(1, 3, 40, 2), 5000.0)
    assert usage.callers == {"team-a": Amount(2, 13, 140, 3), "team-b": ONE}
