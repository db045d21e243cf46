"""The table of callers: windows of a minute, at the same cost however many there are."""

from __future__ import annotations

import gc
import statistics
import time
from array import array

import pytest

from reranker_serve.api.rate_windows import Windows
from reranker_serve.rates import midnight


def test_a_window_begins_with_a_caller_s_first_request_and_lasts_a_minute() -> None:
    windows = Windows()
    windows.charge("a", 10.0, requests=1)
    windows.charge("b", 30.0, requests=1)
    windows.charge("a", 69.0, tokens=7)
    assert windows.of("a", 69.9) == (70, 1, 7)
    assert windows.of("a", 70.0) == (130, 0, 0)
    assert windows.of("b", 89.9) == (90, 1, 0)
    windows.charge("a", 80.0, requests=1, tokens=2)
    assert windows.of("a", 139.9) == (140, 1, 2)
    assert windows.of("c", 5.0) == (65, 0, 0)


def test_a_day_lasts_until_midnight_whenever_it_began() -> None:
    day, windows = 86_400.0, Windows(midnight)
    windows.charge("a", 3 * day + 5, requests=1)
    windows.charge("b", 4 * day - 0.5, requests=1)
    assert windows.of("a", 4 * day - 0.1) == (4 * day, 1, 0)
    assert windows.of("b", 4 * day - 0.1) == (4 * day, 1, 0)
    assert windows.of("a", 4 * day) == (5 * day, 0, 0)


def test_to_look_keeps_nothing() -> None:
    windows = Windows()
    windows.of("a", 1.0)
    assert len(windows) == 0


def test_who_is_gone_is_forgotten_as_others_come() -> None:
    windows = Windows()
    for number in range(100_000):
        windows.charge(f"early {number}", 0.0, requests=1)
    assert len(windows) == 100_000
    for number in range(20_000):
        windows.charge(f"late {number}", 60.0, requests=1)
    assert len(windows) == 20_000


def test_in_a_flood_of_callers_memory_is_bounded_and_the_latest_are_remembered() -> None:
    windows = Windows()
    for number in range(2 * windows.most):
        windows.charge(f"address {number}", number * 1e-6, requests=1)
    assert 0.95 * windows.most < len(windows) <= windows.most
    assert all(windows.of(f"address {2 * windows.most - n}", 1.0)[1] == 1 for n in range(1, 1000))
    assert windows.of("address 0", 1.0)[1] == 0


@pytest.mark.alone
def test_no_request_pays_for_the_callers_there_are() -> None:
    """Half a million callers come, and come again when their windows are over."""
    names = [f"address 10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(500_000)]
    gc.collect()
    gc.freeze()  # the names are the test's, not the table's
    windows, costs = Windows(), array("q")
    try:
        for minute in (0.0, 61.0):
            for number, name in enumerate(names):
                start = time.thread_time_ns()  # without what other programs take
                now = minute + number * 1e-6
                if windows.of(name, now)[1] < 5:
                    windows.charge(name, now, requests=1)
                costs.append(time.thread_time_ns() - start)
    finally:
        gc.unfreeze()
    worst, median = max(costs), statistics.median(costs)
    assert worst < 10_000 * median, f"{worst / 1e6:.1f} ms, beside {median / 1e3:.1f} us in the median"
