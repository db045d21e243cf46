from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from reranker_serve.api import rate_limit
from reranker_serve.api.rate_limit import _caller
from reranker_serve.keys import parse_key
from tests.conftest import Connect

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}
TOKENS = 12


def limits(reply: httpx.Response) -> dict[str, str]:
    prefix = "x-ratelimit-"
    return {name.removeprefix(prefix): value for name, value in reply.headers.items() if name.startswith(prefix)}


async def test_requests_are_counted_and_refused_until_the_minute_is_over(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(rate_limit="2 requests") as client:
        for left in ("1", "0"):
            reply = await client.post("/rerank", json=GOOD)
            assert reply.status_code == 200
            assert limits(reply) == {"limit-requests": "2", "remaining-requests": left, "reset-requests": "60s"}
        for _ in range(2):
            refused = await client.post("/rerank", json=GOOD)
            assert refused.status_code == 429
            assert 0 < int(refused.headers["Retry-After"]) <= 60
            assert limits(refused)["remaining-requests"] == "0"
        message = refused.json()["error"]["message"]
        assert message.startswith("this address has used up its 2 requests a minute; retry in ")
        monkeypatch.setattr(rate_limit, "monotonic", lambda: time.monotonic() + 61)
        assert (await client.post("/rerank", json=GOOD)).status_code == 200


async def test_tokens_are_charged_when_they_are_known(connect: Connect) -> None:
    async with connect(rate_limit=f"100 requests, {TOKENS + 1} tokens") as client:
        first = await client.post("/rerank", json=GOOD)
        assert first.json()["usage"]["prompt_tokens"] == TOKENS
        assert (limits(first)["remaining-tokens"], limits(first)["limit-tokens"]) == ("1", str(TOKENS + 1))
        over = await client.post("/rerank", json=GOOD)
        assert (over.status_code, limits(over)["remaining-tokens"]) == (200, "0")
        refused = await client.post("/rerank", json=GOOD)
        assert refused.status_code == 429
        assert limits(refused)["remaining-requests"] == "98"  # what is refused is not counted
        assert "tokens a minute" in refused.json()["detail"]


async def test_a_request_that_fails_counts_but_costs_no_tokens(connect: Connect) -> None:
    async with connect(rate_limit="9 requests, 9 tokens") as client:
        wrong = await client.post("/rerank", json={"query": "", "documents": ["a"]})
        assert wrong.status_code == 400
        assert (limits(wrong)["remaining-requests"], limits(wrong)["remaining-tokens"]) == ("8", "9")


async def test_each_key_has_its_own_and_keys_of_one_name_share(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("team-a: old\nteam-a: new\nteam-b: other\nbare\n")
    async with connect(api_key_file=str(tmp_path / "keys"), rate_limit="1 request") as client:
        for key, status in (("old", 200), ("new", 429), ("other", 200), ("bare", 200), ("other", 429), ("no", 401)):
            reply = await client.post("/rerank", json=GOOD, headers={"X-Api-Key": key})
            assert reply.status_code == status, key
        assert "this key" in (await client.post("/rerank", json=GOOD, headers={"X-Api-Key": "bare"})).text


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v2/rerank", GOOD, "message"),
        ("/tei/rerank", {"query": "a", "texts": ["b"]}, "error"),
        ("/v1/ranking", {"query": {"text": "a"}, "passages": [{"text": "b"}]}, "detail"),
    ],
)
async def test_a_refusal_is_in_the_caller_s_dialect(path: str, body: object, field: str, connect: Connect) -> None:
    async with connect(rate_limit="1 request") as client:
        await client.post(path, json=body)
        refused = await client.post(path, json=body)
    assert refused.status_code == 429
    assert "used up" in refused.json()[field]


async def test_probes_and_facts_are_not_limited(connect: Connect) -> None:
    async with connect(rate_limit="1 request") as client:
        for path in ("/health", "/metrics", "/info") * 2:
            reply = await client.get(path)
            assert (reply.status_code, limits(reply)) == (200, {})
        metrics = (await client.get("/metrics")).text
        assert 'reranker_errors_total{kind="RateLimited"}' not in metrics
        for _ in range(2):
            await client.post("/rerank", json=GOOD)
        assert 'reranker_errors_total{kind="RateLimited"} 1.0' in (await client.get("/metrics")).text


async def test_without_a_limit_there_are_no_headers(connect: Connect) -> None:
    async with connect() as client:
        assert limits(await client.post("/rerank", json=GOOD)) == {}


def test_who_counts_as_one_caller() -> None:
    assert _caller(None, ("10.0.0.1", 5)) == _caller(None, ("10.0.0.1", 6)) == _caller(None, ("::ffff:10.0.0.1", 7))
    assert _caller(None, ("10.0.0.1", 5)) != _caller(None, ("10.0.0.2", 5))
    assert _caller(None, ("2001:db8::1", 5)) == _caller(None, ("2001:db8::ffff:1", 5))
    assert _caller(None, ("2001:db8::1", 5)) != _caller(None, ("2001:db8:0:1::1", 5))
    assert _caller(None, None) == _caller(None, ("", 0))
    assert _caller(parse_key("a", "team"), None) == _caller(parse_key("b", "team"), None)
    assert _caller(parse_key("a"), None) != _caller(parse_key("b"), None)
