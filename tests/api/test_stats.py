"""`GET /stats`: what is served, how fast, and who had how much."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from reranker_serve.backends.fake import FakeBackend
from reranker_serve.keys import hash_key
from reranker_serve.types import EncodedItem
from tests.conftest import Connect, Gate

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox", "a red fox"]}


async def stats(client: httpx.AsyncClient, key: str = "") -> dict[str, Any]:
    reply = await client.get("/stats", headers={"Authorization": f"Bearer {key}"} if key else {})
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()
    return content


async def test_a_server_that_has_done_nothing(connect: Connect) -> None:
    async with connect() as client:
        found = await stats(client)
    assert 0 <= found.pop("uptime_seconds") < 10
    prices = found.pop("prices")
    assert found == {
        "model": "fake",
        "device": "cpu",
        "precision": "float32",
        "attention": "none",
        "queue_seconds": 0,
        "requests_per_second": 0,
        "pairs_per_second": 0,
        "latency_ms": {"p50": None, "p95": None},
        "cache": {"hits": 0, "misses": 0},
        "workers": 1,
        "keys": [],
        "usage": None,
    }
    assert len({row["vendor"] for row in prices["rows"]}) == 3


async def test_what_was_answered_is_counted(connect: Connect) -> None:
    async with connect() as client:
        first = (await client.post("/rerank", json=GOOD)).json()
        await client.post("/v1/rerank", json=GOOD)
        await client.post("/rerank", content=b"{")
        await client.get("/health")
        found = await stats(client)
        metrics = (await client.get("/metrics")).text
    tokens = first["usage"]["prompt_tokens"]
    # The second request's pairs were known by then. Its tokens count as its own reply says.
    assert found["cache"] == {"hits": 2, "misses": 2}
    assert found["keys"] == [{"name": None, "requests": 2, "documents": 6, "tokens": 2 * tokens, "search_units": 2}]
    assert "reranker_cache_hits_total 2.0" in metrics
    assert found["pairs_per_second"] == pytest.approx(3 * found["requests_per_second"], abs=0.01)
    assert found["requests_per_second"] > 0
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p95"]


async def test_search_units_are_counted_as_the_reply_says(connect: Connect) -> None:
    async with connect() as client:
        many = {"query": "blue whale", "documents": [f"whale {number}" for number in range(101)]}
        billed = (await client.post("/v2/rerank", json=many)).json()["meta"]["billed_units"]["search_units"]
        await client.post("/score", json={"text_1": ["blue", "red", "blue"], "text_2": ["whale", "fox", "sky"]})
        (caller,) = (await stats(client))["keys"]
    assert billed == 2
    assert caller["search_units"] == billed + 2  # a search for each of the two queries


async def test_documents_that_were_not_reached_in_time_are_not_counted(connect: Connect) -> None:
    async with connect(FakeBackend(lambda items: time.sleep(0.15), batch_token_cap=8)) as client:
        body = {"query": "blue whale", "documents": ["one whale", "two foxes", "red sky"], "deadline_ms": 200}
        reply = await client.post("/rerank", json=body)
        (caller,) = (await stats(client))["keys"]
    scored = int(reply.headers["X-Rerank-Scored"].split("/")[0])
    assert scored < 3
    assert caller["documents"] == scored


async def test_each_key_has_its_row_and_none_is_shown(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("team-a: first\nteam-a: second\nthird\n")
    async with connect(api_key_file=str(path)) as client:
        assert (await client.get("/stats")).status_code == 401
        for key in ("first", "second", "third", "wrong"):
            await client.post("/rerank", json=GOOD, headers={"X-Api-Key": key})
        found = await stats(client, "third")
    assert {row["name"]: row["requests"] for row in found["keys"]} == {"team-a": 2, hash_key("third")[:15]: 1}


async def test_the_queue_is_told_in_seconds_of_work(connect: Connect, gate: Gate) -> None:
    learned = False

    def hold(items: Sequence[EncodedItem]) -> None:
        if learned:
            gate(items)
        time.sleep(0.05)

    async with connect(FakeBackend(hold, batch_token_cap=8)) as client:
        await client.post("/rerank", json={"query": "a", "documents": ["a first pass tells the speed"]})
        learned = True
        waiting = asyncio.create_task(client.post("/rerank", json=GOOD))
        await gate.entered()
        assert (await stats(client))["queue_seconds"] > 0
        gate.open()
        await waiting
        assert (await stats(client))["queue_seconds"] == 0


def test_prices_have_a_date_and_say_where_they_were_read() -> None:
    prices = json.loads(files("reranker_serve.api").joinpath("prices.json").read_text())
    assert len(prices["date"].split("-")) >= 2
    counted = {"requests", "documents", "tokens", "search_units"}
    for row in prices["rows"]:
        assert set(row) == {"vendor", "model", "unit", "per", "price_usd", "source"}
        assert row["unit"] in counted
        assert row["source"].startswith("https://")
        assert 0 < row["price_usd"] / row["per"] < 0.01


async def test_with_a_file_of_usage_days_of_all_processes_are_told(connect: Connect, tmp_path: Path) -> None:
    path, file = tmp_path / "keys", str(tmp_path / "usage.db")
    path.write_text("team-a: first\nsecond\n")
    today = datetime.now(UTC).date()
    for _ in range(2):
        async with connect(api_key_file=str(path), usage_file=file) as client:
            for key in ("first", "first", "second"):
                await client.post("/rerank", json=GOOD, headers={"X-Api-Key": key})
            await client.post("/rerank", json={"query": ""}, headers={"X-Api-Key": "first"})
    async with connect(api_key_file=str(path), usage_file=file) as client:
        client.headers["X-Api-Key"] = "first"
        assert (await stats(client))["usage"] is None
        kept = (await client.get("/stats", params={"since": str(today)})).json()["usage"]
        by_key = (await client.get("/stats", params={"since": "2026-01-01", "by": "key"})).json()["usage"]
        later = (await client.get("/stats", params={"since": str(today + timedelta(1))})).json()["usage"]
    assert [(row["key"], row["model"], row["requests"], row["documents"]) for row in kept] == [
        (hash_key("second")[:15], "fake", 2, 6),
        ("team-a", "fake", 4, 12),
    ]
    assert kept[0]["day"] == str(today)
    assert [set(row) for row in by_key] == [{"key", "requests", "documents", "tokens", "search_units"}] * 2
    assert later == []


@pytest.mark.parametrize(
    ("asked", "said"), [("since=today", "a day is like 20"), ("since=2026-01-01&by=team", "by some of day, key, model")]
)
async def test_a_day_that_is_none_is_an_error_that_says_so(asked: str, said: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.get(f"/stats?{asked}")
    assert reply.status_code == 400
    assert said in reply.json()["message"]


async def test_a_file_that_cannot_be_read_leaves_the_rest(connect: Connect, tmp_path: Path) -> None:
    async with connect(usage_file=str(tmp_path / "usage.db")) as client:
        (tmp_path / "usage.db").write_bytes(b"broken" * 1000)
        found = (await client.get("/stats?since=2026-01-01")).json()
    assert (found["usage"], found["model"]) == (None, "fake")
