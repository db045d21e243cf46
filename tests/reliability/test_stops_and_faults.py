"""Stops in the middle of load, and a model that fails in every way."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import pytest

from tests.reliability.conftest import Report
from tests.reliability.load import FULL, body, call, closed_loop, count, session
from tests.server.processes import FAKE_SERVER, running

STOPS = 50 if FULL else 3


async def test_sigterm_in_the_middle_of_load_loses_nothing(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.02")
    monkeypatch.setenv("BATCH_TOKENS", "256")
    answered = unread = 0
    chance = random.Random(7)
    for _ in range(STOPS):
        with running(tmp_path, FAKE_SERVER, drain_delay="0.3") as server:
            await asyncio.to_thread(server.wait_ready)
            load = asyncio.create_task(closed_loop(server.url, callers=8, seconds=30))
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            assert await asyncio.to_thread(server.terminate) == 0, server.output
            outcomes = await load
            log = server.output
        found = count(outcomes)
        assert set(found) <= {"200", "refused", "lost"}, found
        lost = [one.id for one in outcomes if one.what == "lost"]
        assert [name for name in lost if name in log] == []
        assert "dropped" not in log
        assert "Traceback" not in log
        answered += found["200"]
        unread += len(lost)
    report(stops=STOPS, answered=answered, admitted_and_lost=0, closed_before_read=unread)


async def test_ready_says_503_while_requests_are_still_taken(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, drain_delay="1.5") as server:
        await asyncio.to_thread(server.wait_ready)
        server.process.terminate()
        await asyncio.sleep(0.5)
        assert (await asyncio.to_thread(httpx.get, f"{server.url}/ready")).json()["status"] == "draining"
        reply = await asyncio.to_thread(httpx.post, f"{server.url}/rerank", json=body(2))
        assert (reply.status_code, reply.headers["Connection"]) == (200, "close")
        assert await asyncio.to_thread(server.process.wait, 10) == 0


async def test_what_is_not_done_within_the_drain_timeout_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.5")
    monkeypatch.setenv("BATCH_TOKENS", "16")
    with running(tmp_path, FAKE_SERVER, drain_delay="0", drain_timeout="1") as server:
        await asyncio.to_thread(server.wait_ready)
        async with session() as shared:
            waiting = [asyncio.create_task(call(shared, server.url, body(20))) for _ in range(3)]
            await asyncio.sleep(0.5)
            assert await asyncio.to_thread(server.terminate) == 0
            assert count([await one for one in waiting]) == {"503": 3}
        assert "dropped 3 request(s)" in server.output
        assert "Traceback" not in server.output


async def test_a_failing_model_fails_the_requests_at_fault_only(tmp_path: Path, report: Report) -> None:
    faults = ["faultraise", "faultmemory", "faultnan", "faultshape"] * (25 if FULL else 5)
    with running(tmp_path, FAKE_SERVER, drain_delay="0") as server:
        await asyncio.to_thread(server.wait_ready)
        async with session() as shared:
            bad = [{"query": "blue whale", "documents": ["a", f"{word} {i}"]} for i, word in enumerate(faults)]
            calls = [call(shared, server.url, one) for pair in bad for one in (pair, body(3))]
            outcomes = await asyncio.gather(*calls)
        named = await asyncio.to_thread(
            httpx.post, f"{server.url}/rerank", json={"query": "a", "documents": ["b", "faultnan"]}
        )
        assert "document 1" in named.json()["detail"]
        assert count(outcomes[::2]) == {"500": len(faults)}
        assert count(outcomes[1::2]) == {"200": len(faults)}
        report(faults=len(faults), others_answered=len(faults))


async def test_too_little_memory_for_a_batch_costs_time_and_nothing_else(tmp_path: Path, report: Report) -> None:
    requests = 100 if FULL else 10
    with running(tmp_path, FAKE_SERVER, drain_delay="0") as server:
        await asyncio.to_thread(server.wait_ready)
        documents = [f"{'blue whale' if i % 2 else 'fox'} faultcrowd {i}" for i in range(40)]
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            crowded = {"query": "blue whale", "documents": documents, "raw_scores": True}
            bodies = [crowded | {"query": f"blue whale {turn}"} for turn in range(1000, 1000 + requests)]
            replies = await asyncio.gather(*(client.post("/rerank", json=one) for one in (*bodies, body(3))))
    assert [reply.status_code for reply in replies] == [200] * (requests + 1)
    for reply in replies[:-1]:
        scores = {row["index"]: row["relevance_score"] for row in reply.json()["results"]}
        assert scores == {i: 1.0 if i % 2 else -1.0 for i in range(40)}
    report(crowded_requests=requests, answered=requests)


@pytest.mark.parametrize("fault", ["faulthang", "faultlost"])
async def test_a_model_that_is_gone_fails_the_waiting_and_ends_the_process(
    fault: str, tmp_path: Path, report: Report
) -> None:
    with running(tmp_path, FAKE_SERVER, batch_timeout="1") as server:
        await asyncio.to_thread(server.wait_ready)
        async with session() as shared:
            first = asyncio.create_task(call(shared, server.url, {"query": "a", "documents": [fault]}))
            await asyncio.sleep(0.2)
            others = [asyncio.create_task(call(shared, server.url, body(3))) for _ in range(10)]
            outcomes = [await one for one in (first, *others)]
        assert count(outcomes) == {"503": 11}
        assert (await asyncio.to_thread(httpx.get, f"{server.url}/ready")).json()["status"] == "dead"
        assert await asyncio.to_thread(server.process.wait, 10) == 4
    report(slowest_reply_s=round(max(one.seconds for one in outcomes), 2), status=4)
