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


@pytest.mark.parametrize(
    ("headers", "length"),
    [([(b"content-length", b"12")], 12), ([], None), ([(b"content-length", b"x")], None), ([(b"host", b"1")], None)],
)
def test_the_length_of_a_body(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    assert body_length({"headers": headers}) == length


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
    await BehindProxy(application, traffic)(scope, receive, send)
    traffic.computed(0)
    assert traffic.tokens_per_byte == pytest.approx(0.3 * 50_000 / 200_000)
    assert sent[0]["headers"] == [(b"x-other", b"2")]
