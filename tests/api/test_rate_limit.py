from __future__ import annotations

import sys
import time
from pathlib import Path

import httpx
import pytest

from reranker_serve import keys
from reranker_serve.api import rate_ledger
from reranker_serve.api.rate_limit import _caller
from reranker_serve.app import create_app
from reranker_serve.errors import SettingsError
from reranker_serve.keys import parse_key
from tests.conftest import Connect, fake_settings

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}
TOKENS = 12
NOON = 20_000 * 86_400 + 43_200


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
        later = time.monotonic() + 61
        monkeypatch.setattr(rate_ledger.time, "monotonic", lambda: later)
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
    assert _caller(None, None).has_key is False
    assert _caller(parse_key("a", "team"), None) == _caller(parse_key("b", "team"), None)
    assert _caller(parse_key("a"), None) != _caller(parse_key("b"), None)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day stands at twelve, in UTC."""
    monkeypatch.setattr(time, "time", lambda: NOON)


async def test_a_day_ends_at_midnight_utc(connect: Connect, noon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connect(rate_limit="2 requests a day") as client:
        assert limits(await client.post("/rerank", json=GOOD))["reset-requests"] == "43200s"
        await client.post("/rerank", json=GOOD)
        refused = await client.post("/rerank", json=GOOD)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "43200")
        assert "this address has used up its 2 requests a day; retry in 43200 s" in refused.text
        monkeypatch.setattr(time, "time", lambda: NOON + 43_199.5)
        refused = await client.post("/rerank", json=GOOD)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        monkeypatch.setattr(time, "time", lambda: NOON + 43_200)
        first = await client.post("/rerank", json=GOOD)
        assert limits(first) == {"limit-requests": "2", "remaining-requests": "1", "reset-requests": "86400s"}


async def test_headers_tell_of_minute_and_day_the_one_with_less_left(connect: Connect, noon: None) -> None:
    async with connect(rate_limit=f"3 requests, 4 requests a day, {5 * TOKENS} tokens a day") as client:
        first = limits(await client.post("/rerank", json=GOOD))
        assert first == {
            "limit-requests": "3", "remaining-requests": "2", "reset-requests": "60s",
            "limit-tokens": str(5 * TOKENS), "remaining-tokens": str(4 * TOKENS), "reset-tokens": "43200s",
        }  # fmt: skip
        for _ in range(2):
            await client.post("/rerank", json=GOOD)
        assert "3 requests a minute; retry" in (await client.post("/rerank", json=GOOD)).text


async def test_who_has_used_up_minute_and_day_is_told_to_wait_for_the_day(connect: Connect, noon: None) -> None:
    async with connect(rate_limit="1 request, 1 request a day") as client:
        await client.post("/rerank", json=GOOD)
        refused = await client.post("/rerank", json=GOOD)
    assert refused.headers["Retry-After"] == "43200"
    assert "its 1 request a minute and 1 request a day; retry in 43200 s" in refused.text


async def test_a_key_has_its_own_limits_and_others_the_general_one(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("much: a 2 requests\nmuch: b 2 requests\nother: c\nlittle: d 1 token a day\n")
    async with connect(api_key_file=str(tmp_path / "keys"), rate_limit="1 request") as client:
        for key, status in (("a", 200), ("c", 200), ("b", 200), ("c", 429), ("a", 429), ("d", 200), ("d", 429)):
            reply = await client.post("/rerank", json=GOOD, headers={"X-Api-Key": key})
            assert reply.status_code == status, key
        assert set(limits(reply)) == {"limit-tokens", "remaining-tokens", "reset-tokens"}  # not the general one as well


async def test_limits_of_a_file_of_keys_hold_without_a_general_one_and_from_the_next_change_on(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_RECHECK_S", 0.0)
    path = tmp_path / "keys"
    path.write_text("team: a\nfree: b\n")
    async with connect(api_key_file=str(path)) as client:
        assert limits(await client.post("/rerank", json=GOOD, headers={"X-Api-Key": "a"})) == {}
        path.write_text("team: a 1 request\nfree: b\n")
        for key, status in (("a", 200), ("a", 429), ("b", 200)):
            assert (await client.post("/rerank", json=GOOD, headers={"X-Api-Key": key})).status_code == status
        path.write_text("team: a 3 requests\nfree: b\n")
        reply = await client.post("/rerank", json=GOOD, headers={"X-Api-Key": "a"})
        assert (reply.status_code, limits(reply)["remaining-requests"]) == (200, "1")


def test_a_store_without_its_packages_ends_the_start_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)  # as if it were not installed
    settings = fake_settings(limits_url="redis://:s3cret@store")
    with pytest.raises(
        SettingsError, match=r"RERANKER_LIMITS_URL needs packages: pip install 'reranker-serve\[redis\]'"
    ):
        create_app(settings)


async def test_one_of_several_workers_gives_its_share(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a 8 requests, 400 tokens a day\n")
    async with connect(api_key_file=str(tmp_path / "keys"), workers="4") as client:
        reply = await client.post("/rerank", json=GOOD, headers={"X-Api-Key": "a"})
    assert (limits(reply)["limit-requests"], limits(reply)["limit-tokens"]) == ("2", "100")
