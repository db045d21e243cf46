"""What order and admission promise, on a virtual clock: seconds of simulation, no timing of this machine."""

from __future__ import annotations

import pytest

from benchmarks.scheduling import measure, ten_beside_a_thousand


@pytest.mark.parametrize(("load", "size", "timeout"), [(1.2, "50", 6.0), (2.0, "50", 6.0), (5.0, "20", 6.0)])
def test_what_is_let_in_is_finished(load: float, size: str, timeout: float) -> None:
    present, before = (measure(policy, load, size, timeout, 200.0) for policy in ("present", "before"))
    assert present.goodput > 0.95 > 0.5 > before.goodput
    assert present.late < 0.01


def test_large_requests_are_finished_beside_small_ones_at_any_load() -> None:
    row = measure("present", 5.0, "mixed", 300.0, 1000.0)
    assert row.goodput > 0.95
    assert row.late < 0.01


def test_ten_documents_do_not_wait_for_a_thousand() -> None:
    assert ten_beside_a_thousand("present", 100) < 3.5
