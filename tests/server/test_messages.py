"""What one HTTP message may cost a real server: trailers, bodies, and replies that are not read."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from reranker_serve.settings import Settings
from tests.server.processes import FAKE_SERVER, Server, metric, running
from tests.server.wire import GOOD, RAW, Wire, chunked, head, post

MB = 1_000_000


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never came true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"read_timeout": "1", "max_buffered_bytes": str(2 * MB), "max_body_bytes": str(2 * MB)}
    with running(tmp_path_factory.mktemp("messages"), FAKE_SERVER, **settings) as started:
        started.wait_ready()
        yield started


def taken(wire: Wire, start: bytes, endless: bytes) -> int:
    """Bytes of `endless` that the server takes until it closes the connection, at most 4 MB."""
    wire.send(start)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 4 * MB:
            wire.send(endless)
            sent += len(endless)
            time.sleep(0.001)
    return sent


@pytest.mark.parametrize("start", [b"", b"x: "], ids=["many", "one without end"])
def test_trailers_are_bounded_as_headers_are(server: Server, start: bytes) -> None:
    begin = head("Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n" % (len(RAW), RAW) + start
    with Wire(server.url) as wire:
        assert taken(wire, begin, b"x: " + b"y" * 8000 + (b"" if start else b"\r\n")) < MB
        with contextlib.suppress(ConnectionError):  # a reset may overtake the reply
            assert wire.reply().status == 431


def test_a_pipelined_head_is_bounded_while_a_request_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "5")
    with running(tmp_path, FAKE_SERVER, drain_delay="0", drain_timeout="0.1") as server:
        server.wait_ready()
        with Wire(server.url) as wire:
            assert taken(wire, post() + b"GET / HTTP/1.1\r\n", b"x: " + b"y" * 8000 + b"\r\n") < MB


def test_a_few_trailers_do_no_harm(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.send(chunked(trailers=b"Digest: a\r\nContent-Encoding: br\r\n"), post())
        assert [wire.reply().status, wire.reply().status] == [200, 200]


def large(size: int) -> bytes:
    return json.dumps({"query": "blue", "documents": ["whale " * (size // 6)], "return_documents": False}).encode()


def test_bodies_that_are_read_at_once_share_a_budget(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        idle, *others = (stack.enter_context(Wire(server.url)) for _ in range(4))
        idle.send(head(f"Content-Length: {2 * MB - 1}"))  # says much and sends nothing: holds nothing
        body = large(MB)
        first, second, third = others
        first.send(head(f"Content-Length: {len(body)}"), body[:900_000])
        second.send(head("Transfer-Encoding: chunked"), b"%x\r\n" % 1_000_000, body[:900_000])
        time.sleep(0.2)
        third.send(head(f"Content-Length: {len(body)}"))  # refused by its length, before it sends
        refused = third.reply()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "RERANKER_MAX_BUFFERED_BYTES" in refused.json["detail"]
        with Wire(server.url) as streamed:
            streamed.send(head("Transfer-Encoding: chunked"), b"%x\r\n" % 1_000_000, body[:400_000])
            assert streamed.reply().status == 503
            assert streamed.closed()
        first.send(body[900_000:])
        assert first.reply().status == 200
    with Wire(server.url) as after:
        time.sleep(0.1)  # until the server sees that they are gone
        after.send(post(body=large(1_900_000)))
        assert after.reply().status == 200


def ask_for_much(wire: Wire, *headers: str) -> int:
    """A reply larger than what sockets hold; returns about how large."""
    documents = ["whale " * 10_000] * 100
    body = json.dumps({"query": "blue", "documents": documents, "return_documents": True}).encode()
    wire.send(post(*headers, body=body))
    return len(body)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("roomy"), FAKE_SERVER, read_timeout="1") as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `roomy`, with TLS."""
    folder = tmp_path_factory.mktemp("private")
    request = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    subprocess.run(request.split(), cwd=folder, check=True, capture_output=True)
    files = {"tls_certfile": "cert.pem", "tls_keyfile": "key.pem"}
    with running(folder, FAKE_SERVER, read_timeout="1", **files) as started:
        until(lambda: "ready: " in started.output)
        yield Server(started.process, started.url.replace("http:", "https:"), folder)


@pytest.mark.parametrize("name", ["roomy", "private"])
@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["open", "closing"])
def test_a_slow_reader_gets_all_of_a_reply(request: pytest.FixtureRequest, name: str, headers: tuple[str, ...]) -> None:
    with Wire(request.getfixturevalue(name).url, receive_buffer=8192) as wire:
        size, got = ask_for_much(wire, *headers), 0
        start = time.monotonic()
        while got < size and (data := wire.sock.recv(65_536)):
            got += len(data)
            time.sleep(0.005)
            assert time.monotonic() < start + 15
    assert got >= size
    assert time.monotonic() > start + 1.5


@pytest.mark.parametrize("name", ["roomy", "private"])
@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["open", "closing"])
def test_who_reads_nothing_is_cut_off(request: pytest.FixtureRequest, name: str, headers: tuple[str, ...]) -> None:
    with Wire(request.getfixturevalue(name).url, receive_buffer=8192) as wire:
        size, got = ask_for_much(wire, *headers), 0
        time.sleep(3)
        with contextlib.suppress(OSError):
            while data := wire.sock.recv(65_536):
                got += len(data)
    assert got < size


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": lambda data: gzip.compress(data[:9]) + gzip.compress(b"") + gzip.compress(data[9:]),
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "identity": bytes,
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank", "/score", "/tokenize", "/tei/rerank"])
def test_encoded_bodies_are_decoded_on_every_route(server: Server, coding: str, path: str) -> None:
    body = {"/score": {"text_1": "a", "text_2": ["b"]}, "/tokenize": {"inputs": "a b"}}.get(
        path, {"query": "a", "texts": ["b"]} if path == "/tei/rerank" else GOOD
    )
    raw = json.dumps(body).encode()
    encoded = CODINGS[coding](raw)
    plain = httpx.post(f"{server.url}{path}", content=raw)
    assert plain.status_code == 200
    for write in (post, chunked):
        with Wire(server.url) as wire:
            message = write(f"Content-Encoding: {coding}", body=encoded).replace(b"/rerank", path.encode(), 1)
            wire.send(*(message[i : i + 1] for i in range(len(message))))
            assert wire.reply().status == 200
            wire.send(post())
            assert wire.reply().status == 200


def test_a_bomb_is_refused_before_it_is_inflated(server: Server) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b" " * MB) for _ in range(200)) + packer.flush()
    assert len(bomb) < MB
    start = time.perf_counter()
    reply = httpx.post(f"{server.url}/rerank", content=bomb, headers={"Content-Encoding": "gzip"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (413, "request_too_large_error")
    assert "RERANKER_MAX_BODY_BYTES" in reply.json()["detail"]
    assert time.perf_counter() - start < 2


def test_who_hangs_up_pays_for_what_it_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.3")
    monkeypatch.setenv("BATCH_TOKENS", "512")
    documents = [f"whale {number} " * 200 for number in range(20)]
    body = json.dumps({"query": "blue", "documents": documents}).encode()
    rates = "100 requests, 100000 tokens"
    with running(tmp_path, FAKE_SERVER, rate_limit=rates, drain_delay="0") as server:
        server.wait_ready()
        with Wire(server.url) as wire:
            wire.send(post(body=body))
            until(lambda: metric(server.url, "reranker_queue_tokens") > 0)
        until(lambda: "error=ClientGone" in server.output)
        reply = httpx.post(f"{server.url}/rerank", json=GOOD)
        left = {kind: int(reply.headers[f"x-ratelimit-remaining-{kind}"]) for kind in ("requests", "tokens")}
    assert left["requests"] == 98
    assert 0 <= 100_000 - len(body) // 4 - left["tokens"] < 50


def test_a_connection_whose_request_was_answered_before_its_end_is_kept_as_any_other(server: Server) -> None:
    with Wire(server.url) as wire:
        for _ in range(2):
            wire.send(post("Content-Encoding: br")[:-10])
            assert wire.reply().status == 415
            time.sleep(0.1)
            wire.send(RAW[-10:])
            time.sleep(1.5)  # longer than a head may take
        wire.send(post("Content-Encoding: br")[:-10])
        assert wire.reply().status == 415
        wire.send(RAW[-10:] + post())
        assert wire.reply().status == 200


def test_connections_are_kept_for_75_seconds_or_as_told(roomy: Server, tmp_path: Path) -> None:
    assert Settings().keep_alive == 75
    with Wire(roomy.url) as kept:
        kept.send(post())
        assert kept.reply().status == 200
        with running(tmp_path, FAKE_SERVER, keep_alive="0.5", drain_delay="0") as brief:
            brief.wait_ready()
            with Wire(brief.url) as wire:
                wire.send(post())
                assert wire.reply().status == 200
                wire.sock.settimeout(2)
                assert wire.closed()
        time.sleep(5)
        kept.send(post())
        assert kept.reply().status == 200
