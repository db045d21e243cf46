from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import httpx

from reranker_serve.backends.fake import FakeBackend
from reranker_serve.errors import BackendLost
from reranker_serve.types import EncodedItem
from tests.conftest import Connect, Gate

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox", "a red fox"]}


async def values(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^(reranker_\S+) (\S+)$", text, re.MULTILINE)}


async def test_metrics_move_with_requests(connect: Connect) -> None:
    async with connect() as client:
        before = await values(client)
        assert before["reranker_pairs_total"] == 0
        reply = await client.post("/rerank", json=GOOD)
        await client.post("/v1/rerank", json=GOOD)
        await client.post("/v1/rerank", content=b"{")
        await client.get("/health")
        after = await values(client)
    assert after['reranker_requests_total{dialect="native",status="200"}'] == 1
    assert after['reranker_requests_total{dialect="cohere_v1",status="200"}'] == 1
    assert after['reranker_requests_total{dialect="cohere_v1",status="400"}'] == 1
    assert after['reranker_errors_total{kind="MalformedBody"}'] == 1
    assert after["reranker_pairs_total"] == 6
    tokens = reply.json()["usage"]["prompt_tokens"]
    # The second request's pairs were known by then: neither computed nor counted as read.
    assert after["reranker_tokens_total"] == after['reranker_batch_tokens_sum{device="cpu"}'] == tokens
    assert (after["reranker_cache_misses_total"], after["reranker_cache_hits_total"]) == (2, 2)
    assert after["reranker_queue_tokens"] == 0
    assert after["reranker_request_seconds_count"] == 3
    assert after["reranker_queue_seconds_count"] == after["reranker_inference_seconds_count"] == 1


async def test_the_queue_gauge_follows_the_queue_and_returns_to_zero(connect: Connect, gate: Gate) -> None:
    async with connect(FakeBackend(gate, batch_token_cap=8)) as client:
        waiting = asyncio.create_task(client.post("/rerank", json=GOOD))
        await gate.entered()
        # Two distinct documents of 6 tokens: one is with the model, one waits.
        assert (await values(client))["reranker_queue_tokens"] == 6
        gate.open()
        assert (await waiting).status_code == 200
        assert (await values(client))["reranker_queue_tokens"] == 0


async def test_the_seconds_that_wait_follow_what_was_let_in_and_return_to_zero(connect: Connect, gate: Gate) -> None:
    backend = FakeBackend(lambda items: gate(items) if len(items) > 1 else None)
    async with connect(backend, cache_entries="0") as client:
        assert (await client.post("/rerank", json={**GOOD, "documents": ["one"]})).status_code == 200
        assert (await values(client))["reranker_waiting_seconds"] == 0
        waiting = asyncio.create_task(client.post("/rerank", json=GOOD))
        await gate.entered()
        assert (await values(client))["reranker_waiting_seconds"] > 0
        gate.open()
        assert (await waiting).status_code == 200
        assert (await values(client))["reranker_waiting_seconds"] == 0


async def test_the_queue_gauge_returns_to_zero_when_the_model_dies(connect: Connect, gate: Gate) -> None:
    def die(items: Sequence[EncodedItem]) -> None:
        gate(items)
        raise BackendLost("gone")

    async with connect(FakeBackend(die, batch_token_cap=8)) as client:
        waiting = asyncio.create_task(client.post("/rerank", json=GOOD))
        await gate.entered()
        assert (await values(client))["reranker_queue_tokens"] == 6
        gate.open()
        assert (await waiting).status_code == 503
        after = await values(client)
    assert after["reranker_queue_tokens"] == 0
    assert after['reranker_errors_total{kind="NotReady"}'] == 1


async def test_two_applications_count_apart(connect: Connect) -> None:
    async with connect() as one, connect() as other:
        await one.post("/rerank", json=GOOD)
        assert (await values(one))["reranker_pairs_total"] == 3
        assert (await values(other))["reranker_pairs_total"] == 0
