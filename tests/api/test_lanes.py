"""What is told of several devices, and of one that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from reranker_serve.app import create_app
from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.errors import BackendLost
from reranker_serve.types import EncodedItem
from tests.conftest import fake_settings

BODY = {"query": "blue whale", "documents": [f"the blue whale {number}" for number in range(40)]}


class Gpu(FakeBackend):
    """One of several; it can be lost."""

    def __init__(self, number: int) -> None:
        super().__init__(self._check, batch_token_cap=64)
        self.device = f"cuda:{number}"
        self.lost = False

    def _check(self, items: Sequence[EncodedItem]) -> None:
        if self.lost:
            raise BackendLost("it fell off the bus")


@asynccontextmanager
async def serving(*backends: Gpu) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(fake_settings(model_name="fake", cache_entries="0"), fake_scorer(*backends))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=10) as client:
            yield client


async def lanes(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    return [(lane["device"], lane["state"]) for lane in (await client.get("/info")).json()["lanes"]]


async def ask_until_lost(client: httpx.AsyncClient, count: int) -> None:
    for _ in range(100):
        replies = await asyncio.gather(*(client.post("/rerank", json=BODY) for _ in range(8)))
        assert [reply.status_code for reply in replies] == [200] * 8
        if [state for _, state in await lanes(client)].count("lost") == count:
            return
    raise AssertionError(f"{await lanes(client)}")


async def test_what_is_told_of_devices_that_are_lost_one_after_the_other() -> None:
    one, two = Gpu(0), Gpu(2)
    async with serving(one, two) as client:
        assert await lanes(client) == [("cuda:0", "up"), ("cuda:2", "up")]
        assert (await client.get("/health")).json()["device"] == "cuda:0,cuda:2"
        assert (await client.get("/stats")).json()["device"] == "cuda:0,cuda:2"
        one.lost = True
        await ask_until_lost(client, 1)
        assert await lanes(client) == [("cuda:0", "lost"), ("cuda:2", "up")]
        assert "it fell off the bus" in (await client.get("/info")).json()["lanes"][0]["reason"]
        assert (await client.get("/ready")).status_code == 200
        samples = (await client.get("/metrics")).text
        assert 'reranker_lane_up{device="cuda:0"} 0.0' in samples
        assert 'reranker_lane_up{device="cuda:2"} 1.0' in samples
        two.lost = True
        assert (await client.post("/rerank", json=BODY)).status_code == 503
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "dead")
        assert "cuda:2" in ready.json()["reason"]
        assert 'reranker_lane_up{device="cuda:2"} 0.0' in (await client.get("/metrics")).text
