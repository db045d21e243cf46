"""What the router knows of a request before its body is there."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
from ray.serve._private.common import StreamingHTTPRequest

from reranker_serve.scale.router import _Clock, told_length


def pending(method: str, headers: list[tuple[bytes, bytes]]) -> SimpleNamespace:
    """As Ray's proxy makes it."""
    scope = {"type": "http", "method": method, "headers": headers}
    return SimpleNamespace(args=[pickle.dumps(StreamingHTTPRequest(scope, proxy_actor_name="proxy"))])


@pytest.mark.parametrize(
    ("method", "headers", "length"),
    [
        ("POST", [(b"host", b"a"), (b"content-length", b"1200")], 1200),
        ("POST", [(b"transfer-encoding", b"chunked")], None),
        ("GET", [(b"host", b"a")], 0),
    ],
)
def test_the_length_is_what_the_header_says(
    method: str, headers: list[tuple[bytes, bytes]], length: int | None
) -> None:
    assert told_length(pending(method, headers)) == length


def test_what_did_not_come_through_a_proxy_has_no_length() -> None:
    assert told_length(None) is None
    assert told_length(SimpleNamespace(args=[])) is None
    assert told_length(SimpleNamespace(args=["text"])) is None
    assert told_length(SimpleNamespace(args=[pickle.dumps(1)])) is None


def test_when_a_report_was_made_is_told_by_the_one_that_came_soonest() -> None:
    clock = _Clock()
    assert clock.read(1000.0, now=5.0) == 5.0
    assert clock.read(1000.0, now=6.0) is None
    assert clock.read(1002.0, now=8.0) == 7.0, "a second late"
    assert clock.read(1004.0, now=8.8) == pytest.approx(8.8), "the first was late, too"
    assert clock.read(1006.0, now=11.0) == pytest.approx(10.8)


def test_a_clock_that_stood_still_for_a_while_is_known_again() -> None:
    """A machine that was suspended, or clocks that go apart by a little every day."""
    clock = _Clock()
    for number in range(10):
        assert clock.read(1000.0 + 2 * number, now=5.0 + 2 * number) == 5.0 + 2 * number
    late = [clock.read(1020.0 + 2 * number, now=325.0 + 2 * number) for number in range(100)]
    assert late[0] == 25.0
    assert late[-1] == 325.0 + 2 * 99


def test_a_body_that_will_be_refused_is_nothing_to_do() -> None:
    assert told_length(pending("POST", [(b"content-length", b"999999999999999999")]), most=1000) == 0
