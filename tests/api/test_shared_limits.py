"""Limits that all processes count together, in a real Redis."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from reranker_serve.api import shared_ledger
from reranker_serve.api.rate_ledger import Caller, OwnLedger
from reranker_serve.api.shared_ledger import SharedLedger
from reranker_serve.errors import SettingsError
from reranker_serve.rates import Rates
from tests.conftest import Connect
from tests.server.processes import free_port

pytest.importorskip("limits", reason="the extra `redis` is not installed (./setup.sh --dev)")
library = pytest.importorskip("redis", reason="the extra `redis` is not installed (./setup.sh --dev)")
if shutil.which("redis-server") is None:
    pytest.skip("redis-server is not installed (apt-get install redis-server)", allow_module_level=True)

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}
TOKENS = 12
TEAM = Caller("team-a", has_key=True)


class Redis:
    """A real one, which can be stopped, held and started again."""

    def __init__(self, folder: Path) -> None:
        self.url = f"redis://:pa55word@127.0.0.1:{free_port()}/0"
        self.client = library.Redis.from_url(self.url)
        self.socket = folder / "redis.sock"
        self._folder = folder
        self.start()

    def start(self) -> None:
        port = self.url.rpartition(":")[2].removesuffix("/0")
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--requirepass", "pa55word", "--save", ""]
        command += ["--unixsocket", str(self.socket), "--dir", str(self._folder), "--logfile", "redis.log"]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(library.ConnectionError):
                self.client.ping()
                return
            time.sleep(0.02)
        raise AssertionError("redis-server does not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


PATIENCE_S = shared_ledger._PATIENCE_S


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy with other things a store that is there must not count as away."""
    monkeypatch.setattr(shared_ledger, "_PATIENCE_S", 5.0)


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_ledger, "_PATIENCE_S", PATIENCE_S)


@pytest.fixture(scope="module")
def _started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.stop()


@pytest.fixture
def redis(_started: Redis) -> Redis:
    if _started.process.poll() is not None:
        _started.start()
    _started.client.flushall()
    return _started


def limits(reply: httpx.Response) -> dict[str, str]:
    prefix = "x-ratelimit-"
    return {name.removeprefix(prefix): value for name, value in reply.headers.items() if name.startswith(prefix)}


async def test_two_processes_give_no_more_than_one_limit(connect: Connect, redis: Redis) -> None:
    settings = {"rate_limit": "3 requests", "limits_url": redis.url, "workers": "2"}
    async with connect(**settings) as one, connect(**settings) as other:
        left = []
        for client in (one, other, one):
            reply = await client.post("/rerank", json=GOOD)
            assert reply.status_code == 200
            left.append(limits(reply)["remaining-requests"])
        assert left == ["2", "1", "0"]
        for client in (one, other):
            refused = await client.post("/rerank", json=GOOD)
            assert refused.status_code == 429
            assert 55 < int(refused.headers["Retry-After"]) <= 60
            assert "this address has used up its 3 requests a minute" in refused.text


async def test_tokens_are_charged_when_they_are_known(connect: Connect, redis: Redis) -> None:
    settings = {"rate_limit": f"100 requests, {TOKENS + 1} tokens, 99 tokens a day", "limits_url": redis.url}
    async with connect(**settings) as one, connect(**settings) as other:
        first = limits(await one.post("/rerank", json=GOOD))
        assert (first["limit-tokens"], first["remaining-tokens"], first["remaining-requests"]) == ("13", "1", "99")
        assert limits(await other.post("/rerank", json=GOOD))["remaining-tokens"] == "0"
        refused = await one.post("/rerank", json=GOOD)
        assert (refused.status_code, limits(refused)["remaining-requests"]) == (429, "98")  # not counted
        assert "13 tokens a minute" in refused.text


async def test_of_requests_that_come_together_no_more_are_let_in_than_may_be(redis: Redis) -> None:
    ledgers = [SharedLedger(redis.url, OwnLedger()) for _ in range(3)]
    rates = Rates.parse("10 requests, 1000 requests a day")
    found = await asyncio.gather(*(ledger.admit(TEAM, rates) for ledger in ledgers * 20))
    assert sum(not admission.used_up for admission in found) == 10
    for ledger in ledgers:
        await ledger.close()


async def test_a_minute_ends_and_a_day_ends_at_midnight(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = SharedLedger(redis.url, OwnLedger())
    rates = Rates.parse("1 request a minute, 1 request a day")
    (minute, day) = (await ledger.admit(TEAM, rates)).standings
    assert (minute.seconds, day.seconds) == (60, pytest.approx(86_400 - time.time() % 86_400, abs=2))
    assert {standing.limit.period for standing in (await ledger.admit(TEAM, rates)).used_up} == {"minute", "day"}
    for key in redis.client.scan_iter("*minute"):
        redis.client.pexpire(key, 400)
    (minute, _) = (await ledger.admit(TEAM, rates)).standings
    assert minute.seconds == 1  # never 0 while it is refused
    await asyncio.sleep(0.5)
    assert [standing.limit.period for standing in (await ledger.admit(TEAM, rates)).used_up] == ["day"]
    tomorrow = time.time() + 86_400
    monkeypatch.setattr(shared_ledger.time, "time", lambda: tomorrow)
    assert not (await ledger.admit(TEAM, rates)).used_up
    await ledger.close()


async def test_a_limit_that_is_changed_begins_no_day_anew(redis: Redis) -> None:
    ledger = SharedLedger(redis.url, OwnLedger())
    for amount, used in ((5, 1), (8, 2), (3, 3)):
        (standing,) = (await ledger.admit(TEAM, Rates.parse(f"{amount} requests a day"))).standings
        assert (standing.used, standing.limit.amount) == (used, amount)
    assert (await ledger.admit(TEAM, Rates.parse("2 requests a day"))).used_up
    await ledger.close()


async def test_a_day_goes_from_the_store_when_it_is_over(redis: Redis) -> None:
    ledger = SharedLedger(redis.url, OwnLedger())
    await ledger.admit(TEAM, Rates.parse("5 requests a day, 5 requests, 9 tokens"))
    await ledger.charge(TEAM, Rates.parse("9 tokens"), 3)
    await ledger.close()
    assert sorted(redis.client.ttl(key) for key in redis.client.scan_iter()) == [60, 60, 86_400]


async def test_without_the_store_each_process_limits_by_itself_until_it_is_back(
    connect: Connect, redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "reranker_serve.api.shared_ledger")
    monkeypatch.setattr(shared_ledger, "_AWAY_S", 0.3)
    async with connect(rate_limit="4 requests", limits_url=redis.url, workers="2") as client:
        assert limits(await client.post("/rerank", json=GOOD))["remaining-requests"] == "3"
        redis.stop()
        statuses = [(await client.post("/rerank", json=GOOD)).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]  # its share
        (told,) = caplog.messages
        assert told.startswith(
            "the store of RERANKER_LIMITS_URL is away; until it is back each process limits by itself: "
        )
        assert "pa55word" not in told
        redis.start()
        await asyncio.sleep(0.4)
        assert (await client.post("/rerank", json=GOOD)).status_code == 200
        assert caplog.messages[1:] == ["the store of RERANKER_LIMITS_URL is back: limits are shared again"]


async def test_a_store_that_hangs_holds_up_a_request_for_a_moment_and_the_next_not_at_all(
    connect: Connect, redis: Redis, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(rate_limit="1000 requests, 100000 tokens", limits_url=redis.url) as client:
        await client.post("/rerank", json=GOOD)
        os.kill(redis.process.pid, signal.SIGSTOP)
        try:
            times = []
            for _ in range(5):
                start = time.perf_counter()
                together = asyncio.gather(*(client.post("/rerank", json=GOOD) for _ in range(10)))
                assert {reply.status_code for reply in await together} == {200}
                times.append(time.perf_counter() - start)
        finally:
            os.kill(redis.process.pid, signal.SIGCONT)
        assert times[0] >= 0.25
        assert min(times[1:]) < 0.25  # of a machine that is busy with other things
    assert "no answer in 0.25 s" in caplog.text


async def test_a_name_server_that_hangs_holds_up_nothing_else(
    redis: Redis, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that wait for it would have the threads that large bodies are read on."""
    monkeypatch.setattr(shared_ledger, "_AWAY_S", 0.0)
    ledger = SharedLedger(redis.url.replace("127.0.0.1", "localhost"), OwnLedger())
    rates = Rates.parse("100 requests, 100 requests a day")
    answers, asked, find = threading.Event(), [], socket.getaddrinfo

    def slow(host: str, *arguments: Any, **more: Any) -> Any:
        asked.append(host)
        answers.wait(10)
        return find(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        for _ in range(3):
            await asyncio.gather(*(ledger.admit(TEAM, rates) for _ in range(10)))
        async with asyncio.timeout(2):
            await asyncio.to_thread(time.sleep, 0)
        assert asked == ["localhost"]
    finally:
        answers.set()
    monkeypatch.setattr(shared_ledger, "_PATIENCE_S", 5.0)
    await asyncio.sleep(0.1)
    assert [standing.used for standing in (await ledger.admit(TEAM, rates)).standings] == [1, 1]
    await ledger.close()


async def test_a_name_that_is_not_found_is_told(impatient: None, caplog: pytest.LogCaptureFixture) -> None:
    for url in ("redis://nowhere.invalid:6379/0", f"redis://{'a' * 70}:6379/0"):
        caplog.clear()
        ledger = SharedLedger(url, OwnLedger())
        assert [each.used for each in (await ledger.admit(TEAM, Rates.parse("5 requests"))).standings] == [1]
        await ledger.close()
        assert "the store of RERANKER_LIMITS_URL is away" in caplog.text


async def test_connections_that_were_given_up_mix_up_no_answers(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a caller's counts another must never have the answer."""
    monkeypatch.setattr(shared_ledger, "_AWAY_S", 0.0)
    monkeypatch.setattr(shared_ledger, "_PATIENCE_S", 0.004)
    ledger = SharedLedger(redis.url, OwnLedger())
    rates = Rates.parse("1000000 tokens")
    for turn in range(30):
        redis.client.client_pause(turn % 3 * 4)
        await asyncio.gather(*(ledger.charge(Caller(f"key-{n}", True), rates, 10**n) for n in range(6)))
        await asyncio.sleep(0.005)
    monkeypatch.setattr(shared_ledger, "_PATIENCE_S", 1.0)
    await asyncio.sleep(0.1)
    for n in range(6):
        (standing,) = await ledger.charge(Caller(f"key-{n}", True), rates, 10**n)
        assert standing.used % 10**n == 0
        assert standing.used <= 31 * 10**n
    await ledger.close()


@pytest.mark.parametrize(
    "answer", [b":abc\r\n", b"+OK\r\n", b"$3\r\n1.5\r\n", b"*-1\r\n", b"*1\r\n:1\r\n", b"HTTP/1.1 400\r\n"]
)
async def test_a_store_that_talks_nonsense_counts_as_away(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(4096):
            counts = any(command in asked.upper() for command in (b"GET\r", b"TTL", b"EVAL"))
            writer.write((answer if counts else b"+OK\r\n") * sum(line[:1] == b"*" for line in asked.split(b"\r\n")))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        ledger = SharedLedger(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", OwnLedger())
        rates = Rates.parse("5 requests, 9 tokens, 9 requests a day")
        for used in (1, 2):
            assert [standing.used for standing in (await ledger.admit(TEAM, rates)).standings] == [used, 0, used]
        await ledger.close()
    assert len(caplog.messages) == 1
    assert "the store of RERANKER_LIMITS_URL is away" in caplog.text


async def test_a_socket_on_the_same_machine_will_do(redis: Redis) -> None:
    ledger = SharedLedger(f"redis+unix://:pa55word@{redis.socket}", OwnLedger())
    rates = Rates.parse("5 requests")
    assert [(await ledger.admit(TEAM, rates)).standings[0].used for _ in range(2)] == [1, 2]
    await ledger.close()


async def test_a_wrong_password_is_told_without_it(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    ledger = SharedLedger(redis.url.replace("pa55word", "wr0ng"), OwnLedger())
    assert not (await ledger.admit(TEAM, Rates.parse("5 requests"))).used_up
    await ledger.close()
    assert "password" in caplog.text
    assert "wr0ng" not in caplog.text


def test_what_is_no_address_is_one_line() -> None:
    with pytest.raises(SettingsError, match="is no address of a Redis") as caught:
        SharedLedger("redis://:s3cret@host:port", OwnLedger())
    assert "s3cret" not in str(caught.value)
