"""Keys that are wrong in every way: refused, written down nowhere, and in a time that tells nothing."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from reranker_serve.api.auth import check_key
from reranker_serve.errors import Unauthorized
from reranker_serve.keys import Keys, hash_key, parse_list
from tests.reliability.conftest import Report
from tests.reliability.load import FULL, body
from tests.server.processes import FAKE_SERVER, running

SECRET = "Xq7zLw-the-house-Kp3vRt"
FILED = "Mb5nYc-the-team-Hd8sGj"
RUNS = 20_000 if FULL else 4_000
# Long enough for a comparison that stops at the first difference to be told apart.
LONG_KEY_BYTES = 32_768

Headers = dict[str, str | bytes]

REFUSED: list[tuple[str, str, Headers]] = [
    ("missing", "", {}),
    ("empty", "", {"X-Api-Key": ""}),
    ("empty bearer", "", {"Authorization": "Bearer"}),
    ("its beginning", "", {"X-Api-Key": SECRET[:-1]}),
    ("more than it", "", {"Authorization": f"Bearer {SECRET}x"}),
    ("another case", "", {"Api-Key": SECRET.swapcase()}),
    ("two at once", "", {"X-Api-Key": f"{SECRET},{FILED}"}),
    ("the hash of the file", "", {"X-Api-Key": hash_key(FILED)}),
    ("its name", "", {"X-Api-Key": "team-a"}),
    ("another scheme", "", {"Authorization": f"Basic {SECRET}"}),
    ("a cookie", "", {"Cookie": f"key={SECRET}"}),
    ("in the address", f"?api_key={SECRET}&key={FILED}", {}),
    ("not ASCII", "", {"X-Api-Key": "Schl\u00fcssel-\u4f60".encode()}),
    ("no text at all", "", {"Authorization": b"Bearer \xff\xfe\x80"}),
    ("huge", "", {"X-Api-Key": SECRET * 2_000}),
]


async def test_wrong_keys_are_refused_and_no_key_is_logged(tmp_path: Path, report: Report) -> None:
    (tmp_path / "keys").write_text(f"team-a: {hash_key(FILED)}\n")
    settings = {"api_key": SECRET, "api_key_file": str(tmp_path / "keys"), "log_level": "DEBUG"}
    with running(tmp_path, FAKE_SERVER, **settings) as server:
        await asyncio.to_thread(server.wait_ready)
        async with httpx.AsyncClient(base_url=server.url) as client:
            replies = {
                name: await client.post(f"/v1/rerank{query}", headers=headers, json=body(2))
                for name, query, headers in REFUSED
            }
            for key in (SECRET, FILED):
                assert (await client.post("/rerank", headers={"X-Api-Key": key}, json=body(2))).status_code == 200
        assert await asyncio.to_thread(server.terminate) == 0
        log = server.output
    assert {name: reply.status_code for name, reply in replies.items()} == {name: 401 for name, _, _ in REFUSED}
    written = log + "".join(reply.text + str(reply.headers) for reply in replies.values())
    for secret in (SECRET, FILED, hash_key(FILED)[7:], "Schl", SECRET.swapcase()):
        assert secret not in written
        assert secret[:8] not in written
    assert log.count("error=Unauthorized") == len(REFUSED)
    assert log.count("key=team-a") == 1
    report(refused=len(REFUSED), logged=0)


async def test_a_new_file_of_keys_holds_within_two_seconds_while_requests_come(tmp_path: Path, report: Report) -> None:
    file = tmp_path / "keys"
    file.write_text("old: first-key\n")
    with running(tmp_path, FAKE_SERVER, api_key_file=str(file)) as server:
        await asyncio.to_thread(server.wait_ready)
        async with httpx.AsyncClient(base_url=server.url) as client:

            async def status(key: str) -> int:
                return (await client.post("/rerank", headers={"X-Api-Key": key}, json=body(1))).status_code

            assert (await status("first-key"), await status("second-key")) == (200, 401)
            (tmp_path / "new").write_text("new: second-key\n")
            (tmp_path / "new").rename(file)
            changed = time.monotonic()
            while await status("first-key") == 200:
                assert time.monotonic() - changed < 2
                await asyncio.sleep(0.05)
            seconds = time.monotonic() - changed
            assert await status("second-key") == 200
            file.write_text("broken: \n")
            await asyncio.sleep(1.1)
            assert [await status(key) for key in ("first-key", "second-key")] == [401, 200]
        assert server.output.count("the keys from before still hold: line 1") == 1
    report(new_keys_hold_after_s=round(seconds, 2))


def test_how_long_a_comparison_takes_does_not_tell_how_much_was_right(report: Report) -> None:
    key = "".join(random.Random(1).choices("abcdefghij", k=LONG_KEY_BYTES)).encode()
    accepted = Keys(parse_list(key.decode()))
    wrong = {"first byte": b"#" + key[1:], "last byte": key[:-1] + b"#"}
    times: dict[str, list[int]] = {name: [] for name in wrong}
    for _ in range(RUNS):
        for name, given in wrong.items():
            start = time.perf_counter_ns()
            with suppress(Unauthorized):
                check_key([(b"x-api-key", given)], accepted)
                pytest.fail("a wrong key was accepted")
            times[name].append(time.perf_counter_ns() - start)
    first, last = (statistics.median(times[name]) for name in wrong)
    report(median_wrong_at_first_byte_us=round(first / 1e3, 2), median_wrong_at_last_byte_us=round(last / 1e3, 2))
    assert abs(first - last) < 0.05 * max(first, last)
