"""Whatever becomes of a request, its body's share of the common budget is given back."""

from __future__ import annotations

import asyncio
import gzip
from types import SimpleNamespace

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker_serve.api.body_limit import BodyLimit
from reranker_serve.engine.admission import ByteBudget
from reranker_serve.errors import NoMemory, RequestTooLarge, SlowBody


def scope(**headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "headers": raw, "state": {"exchange": SimpleNamespace(body_bytes=0)}}


def sends(*parts: bytes, end: str = "whole") -> Receive:
    """A caller who sends `parts`, and then is done, goes away, or waits."""
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if end == "whole":
        messages[-1]["more_body"] = False
    if end == "goes away":
        messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(30)
        raise AssertionError("nobody should wait for so long")

    return receive


async def read_all(receive: Receive) -> bytes:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    return body


async def discard(_: Message) -> None:
    pass


def limited(app: ASGIApp, budget: ByteBudget) -> BodyLimit:
    return BodyLimit(app, limit=1000, seconds=0.1, budget=budget)


async def test_it_holds_what_has_arrived_until_the_reply_begins() -> None:
    budget, held = ByteBudget(1500), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            await receive()
            held.append(budget.taken)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        held.append(budget.taken)

    await limited(app, budget)(scope(content_length="1000"), sends(b"a" * 400, b"b" * 600), discard)
    assert held == [400, 1000, 0]
    assert budget.taken == 0


@pytest.mark.parametrize(
    ("receive", "headers", "raised"),
    [
        (sends(b"a" * 400, b"b" * 700), {}, RequestTooLarge),
        (sends(b"a" * 400, end="waits"), {}, SlowBody),
        (sends(gzip.compress(b"a" * 1001)), {"content_encoding": "gzip"}, RequestTooLarge),
        (sends(b"a" * 400, end="goes away"), {}, None),
        (sends(gzip.compress(b"a" * 400)[:-9], end="goes away"), {"content_encoding": "gzip"}, None),
    ],
)
async def test_it_gives_back_what_it_held(
    receive: Receive, headers: dict[str, str], raised: type[Exception] | None
) -> None:
    budget = ByteBudget(1500)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_all(receive)

    call = limited(app, budget)(scope(**headers), receive, discard)
    if raised is None:
        await call
    else:
        with pytest.raises(raised):
            await call
    assert budget.taken == 0


async def test_a_cancelled_request_gives_back_too() -> None:
    budget, begun = ByteBudget(1500), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        await asyncio.sleep(30)

    task = asyncio.create_task(limited(app, budget)(scope(), sends(b"a" * 400), discard))  # type: ignore[arg-type]
    await begun.wait()
    assert budget.taken == 400
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.taken == 0


async def test_beyond_the_budget_it_is_refused_before_more_is_read() -> None:
    budget, reads = ByteBudget(1500), []
    budget.take(900)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reads.append(len((await receive())["body"]))
        await read_all(receive)

    with pytest.raises(NoMemory):
        await limited(app, budget)(scope(), sends(b"a" * 400, b"b" * 400, b"c"), discard)
    assert reads == [400]
    with pytest.raises(NoMemory):
        await limited(app, budget)(scope(content_length="700"), sends(b"a" * 400), discard)
    assert reads == [400]
    with pytest.raises(NoMemory):
        await limited(app, budget)(scope(content_encoding="gzip"), sends(gzip.compress(b"a" * 700)), discard)
    assert budget.taken == 900


async def test_while_much_is_inflated_others_have_their_turn() -> None:
    budget, turns = ByteBudget(50_000_000), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert len(await read_all(receive)) == 10_000_000

    task = asyncio.create_task(other())
    encoded = gzip.compress(bytes(10_000_000))
    await BodyLimit(app, 20_000_000, 10, budget)(scope(content_encoding="gzip"), sends(encoded), discard)
    task.cancel()
    assert turns > 20
