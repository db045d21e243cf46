"""Callers who vanish at any point of a request leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import socket
import struct
import time
import uuid
from pathlib import Path

import pytest

from tests.reliability.conftest import Report
from tests.reliability.load import FULL, Outcome, body, call, count, session
from tests.reliability.proc import descriptors, needs_proc, tasks
from tests.server.processes import FAKE_SERVER, metric, running

pytestmark = needs_proc

CALLERS = 1000 if FULL else 100
POINTS = ["connected", "headers", "no body", "body", "waiting", "reply"]
AT_ONCE = 50
DOCUMENTS, WORDS = 20, 14
# As the fake model counts them: a query of two words, a separator, a document of two words and WORDS.
PAIR_TOKENS = 2 + 1 + 2 + WORDS
LONGEST = 512


def request(point: str) -> bytes:
    """A request to vanish in: to read a part of its reply, that must be larger than what sockets hold."""
    content = body(DOCUMENTS, WORDS)
    if point == "reply":
        content = {"query": "blue whale", "documents": [f"{uuid.uuid4().hex} " * 60_000], "return_documents": True}
    raw = json.dumps(content).encode()
    return b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw


async def vanish(host: str, port: int, point: str, chance: random.Random) -> None:
    """Send as much of a request as `point` says, and close or reset the connection."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        if chance.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset instead of an end
        await loop.sock_connect(sock, (host, port))
        whole = request(point)
        head = whole.index(b"\r\n\r\n") + 4
        upto = {
            "connected": 0,
            "headers": chance.randrange(1, head),
            "no body": head,
            "body": chance.randrange(head + 1, len(whole)),
        }.get(point, len(whole))
        # The server may have closed a connection that is to be reset; what was to be sent does not matter then.
        with contextlib.suppress(ConnectionError):
            await loop.sock_sendall(sock, whole[:upto])
            if point == "reply":
                await loop.sock_recv(sock, chance.randrange(1, 8192))
            await asyncio.sleep(chance.uniform(0, 0.1))


async def serve_others(url: str, over: asyncio.Event) -> list[Outcome]:
    """What a caller who stays is answered meanwhile."""
    done: list[Outcome] = []
    async with session() as shared:
        while not over.is_set():
            done.append(await call(shared, url, body(1, WORDS)))
    return done


async def empties(url: str, seconds: float) -> float:
    """Seconds until no token waits; infinity if that takes longer than `seconds`."""
    start = time.perf_counter()
    while await asyncio.to_thread(metric, url, "reranker_queue_tokens"):
        if time.perf_counter() - start > seconds:
            return math.inf
        await asyncio.sleep(0.02)
    return time.perf_counter() - start


async def test_callers_who_vanish_leave_nothing_behind(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.03")
    monkeypatch.setenv("BATCH_TOKENS", "64")
    chance, at_once, over = random.Random(3), asyncio.Semaphore(AT_ONCE), asyncio.Event()
    points = [POINTS[i % len(POINTS)] for i in range(CALLERS)]
    chance.shuffle(points)

    async def one(host: str, port: str, point: str) -> None:
        async with at_once:
            await vanish(host, int(port), point, chance)

    with running(tmp_path, FAKE_SERVER, drain_delay="0", cache_entries="0") as server:
        await asyncio.to_thread(server.wait_ready)
        await asyncio.sleep(0.2)
        before = descriptors(server), tasks(server)
        others = asyncio.create_task(serve_others(server.url, over))
        host, port = server.url.removeprefix("http://").split(":")
        await asyncio.gather(*(one(host, port, point) for point in points))
        over.set()
        served = await others
        emptied = await empties(server.url, 2)
        await asyncio.sleep(0.5)
        after = descriptors(server), tasks(server)
        computed = await asyncio.to_thread(metric, server.url, "reranker_batch_tokens_sum")
        log = server.output
    asked = points.count("waiting") * DOCUMENTS * PAIR_TOKENS
    for_them = computed - len(served) * PAIR_TOKENS - points.count("reply") * LONGEST
    report(
        vanished=CALLERS,
        others_answered=len(served),
        queue_empty_after_s=round(emptied, 2),
        descriptors=f"{before[0]}/{after[0]}",
        tasks=f"{before[1]}/{after[1]}",
        asked_tokens=asked,
        computed_tokens=max(0, int(for_them)),
    )
    assert count(served).keys() == {"200"}
    assert emptied < 2
    assert for_them < asked / 2
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1]
    assert "Traceback" not in log
