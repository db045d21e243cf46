"""Callers of a real server, and what came of each of their requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections import Counter
from dataclasses import dataclass

import aiohttp

# `short` is part of the ordinary suite; `./test.sh --reliability` sets `full`.
FULL = os.environ.get("RELIABILITY", "short") == "full"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`what` is an HTTP status, `refused` (no connection) or `lost` (sent, and no whole reply)."""

    id: str
    what: str
    seconds: float


def body(documents: int, words: int = 14, **options: object) -> dict[str, object]:
    """Pairs nobody asked before."""
    unique = uuid.uuid4().hex
    texts = [f"{unique} {i} " + "whale " * words for i in range(documents)]
    return {"query": "blue whale", "documents": texts, **options}


async def call(session: aiohttp.ClientSession, url: str, content: dict[str, object]) -> Outcome:
    name, start = uuid.uuid4().hex, time.perf_counter()
    try:
        async with session.post(f"{url}/rerank", json=content, headers={"X-Request-ID": name}) as reply:
            await reply.read()
            what = str(reply.status)
    except aiohttp.ClientConnectorError:
        what = "refused"
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        what = "lost"
    return Outcome(name, what, time.perf_counter() - start)


class Connection:
    """A caller's own connection, where it matters which one a request goes by. Use it as a context."""

    def __init__(self, url: str) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self.local_port = 0
        self.closing = False  # the server said that it will close it

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self.local_port = self._writer.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, content: dict[str, object]) -> Outcome:
        name, start = uuid.uuid4().hex, time.perf_counter()
        raw = json.dumps(content).encode()
        head = f"POST /rerank HTTP/1.1\r\nHost: a\r\nX-Request-ID: {name}\r\nContent-Length: {len(raw)}\r\n\r\n"
        try:
            self._writer.write(head.encode() + raw)
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            await self._reader.readexactly(int(headers["content-length"]))
            what = lines[0].split()[1]
            self.closing = headers.get("connection") == "close"
        except (OSError, asyncio.IncompleteReadError):
            what, self.closing = "lost", True
        return Outcome(name, what, time.perf_counter() - start)


async def closed_loop(url: str, callers: int, seconds: float, documents: int = 4, **options: object) -> list[Outcome]:
    """Each caller sends its next request when it has the last one's reply, and goes when there is nobody any more."""
    until = time.perf_counter() + seconds

    async def caller(session: aiohttp.ClientSession) -> list[Outcome]:
        done: list[Outcome] = []
        while time.perf_counter() < until and not (done and done[-1].what == "refused"):
            done.append(await call(session, url, body(documents, **options)))
        return done

    async with session() as shared:
        return [one for part in await asyncio.gather(*(caller(shared) for _ in range(callers))) for one in part]


async def open_loop(url: str, rate: float, seconds: float, documents: int, **options: object) -> list[Outcome]:
    """`rate` requests a second leave, whether or not earlier ones came back."""
    tasks = []
    async with session() as shared:
        start = time.perf_counter()
        for turn in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + turn / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(call(shared, url, body(documents, **options))))
        return list(await asyncio.gather(*tasks))


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60), raise_for_status=False
    )


def count(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(one.what for one in outcomes)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
