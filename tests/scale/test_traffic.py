from __future__ import annotations

import pytest

from reranker_serve.scale.traffic import BehindProxy, Message, Receive, Scope, Send, Share, Traffic, body_length


def test_what_a_byte_costs_is_learned_from_what_came_and_what_was_computed() -> None:
    traffic = Traffic()
    assert traffic.tokens_per_byte == pytest.approx(0.3)
    tokens = 0.0
    for _ in range(1000):
        traffic.posted(10_000)
        tokens += 1000
        traffic.computed(tokens)
    assert traffic.tokens_per_byte == pytest.approx(0.1, rel=0.01)
    for _ in range(300):
        traffic.posted(10_000)
        tokens += 5000
        traffic.computed(tokens)
    assert traffic.tokens_per_byte == pytest.approx(0.5, rel=0.1), "what was is forgotten"


def test_a_time_without_requests_changes_nothing() -> None:
    traffic = Traffic()
    traffic.posted(1_000_000)
    traffic.computed(100_000)
    before = traffic.tokens_per_byte
    for _ in range(10_000):
        traffic.computed(100_000)
    assert traffic.tokens_per_byte == pytest.approx(before)


@pytest.mark.parametrize(("tokens", "now", "share"), [(0, 2, 0.0), (1000, 2, 0.5), (4000, 2, 1.0), (1000, 0, 0.0)])
def test_the_share_of_time_that_was_computed_in(tokens: float, now: float, share: float) -> None:
    assert Share(0.0).look(tokens, 0.001, now) == share


def test_a_share_is_of_the_time_since_the_look_before() -> None:
    share = Share(0.0)
    share.look(1000, 0.001, 1.0)
    assert share.look(1500, 0.001, 2.0) == pytest.approx(0.5)


def test_a_pass_that_is_longer_than_the_time_between_looks_counts_whole() -> None:
    share, shares, tokens = Share(0.0), [], 0.0
    for now in range(2, 42, 2):
        tokens += 0 if now % 6 else 6000  # a pass of 6 s is done
        shares.append(share.look(tokens, 0.001, now))
    assert shares[2:] == [1.0] * 18


def test_what_is_too_much_to_be_true_is_not_kept_for_long() -> None:
    share = Share(0.0)
    for now in range(1, 101):
        share.look(3000 * now, 0.001, now)
    later = [share.look(300_000, 0.001, now) for now in range(101, 111)]
    assert later[4:] == [0.0] * 6


@pytest.mark.parametrize(
    ("headers", "length"),
    [([(b"content-length", b"12")], 12), ([], None), ([(b"content-length", b"x")], None), ([(b"host", b"1")], None)],
)
def test_the_length_of_a_body(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    assert body_length({"headers": headers}) == length


def test_a_body_that_is_refused_for_its_length_costs_nothing() -> None:
    headers = [(b"content-length", b"1000000000000000000")]
    assert body_length({"headers": headers}, most=1000) == 0
    assert body_length({"headers": [(b"content-length", b"1000")]}, most=1000) == 1000


async def test_the_middleware_counts_bytes_and_leaves_the_id_to_the_proxy() -> None:
    traffic, sent = Traffic(), []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "headers": [(b"X-Request-ID", b"1"), (b"x-other", b"2")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody asks")

    scope = {"type": "http", "headers": [(b"content-length", b"150000")]}
    await BehindProxy(application, traffic, most=200_000)(scope, receive, send)
    traffic.computed(0)
    assert traffic.tokens_per_byte == pytest.approx(0.3 * 50_000 / 200_000)
    assert sent[0]["headers"] == [(b"x-other", b"2")]
