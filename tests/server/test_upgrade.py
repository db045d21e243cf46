"""A caller who offers an upgrade is answered as if it had not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.processes import FAKE_SERVER, Server, running
from tests.server.wire import GOOD, RAW, Wire, chunked, head, post

# As Java's HttpClient sends with default settings.
JAVA = (
    "Connection: Upgrade, HTTP2-Settings",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Upgrade: h2c",
    "User-Agent: Java-http-client/21.0.1",
)
OFFERS = {
    "h2c": JAVA,
    "websocket": ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "tls": ("Upgrade: TLS/1.0", "Connection: Upgrade"),
    "nonsense": ("upgrade: a, b/2", "connection: UPGRADE"),
    "several": ("Upgrade: h2c", "Connection: upgrade", "Upgrade: websocket", "Connection: close, upgrade"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("upgrade"), FAKE_SERVER, read_timeout="5") as started:
        started.wait_ready()
        yield started


def pieces(message: bytes, size: int) -> list[bytes]:
    return [message[start : start + size] for start in range(0, len(message), size)]


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("write", [post, chunked], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [1, 7, 100, 65_536])
def test_any_offer_is_as_if_it_were_not_there(server: Server, offer: tuple[str, ...], write: object, size: int) -> None:
    assert callable(write)
    with Wire(server.url) as wire:
        wire.send(*pieces(write(*offer), size))
        reply = wire.reply()
        assert reply.status == 200, reply.body
        assert [row["index"] for row in reply.json["results"]] == [0, 1]
        assert "upgrade" not in reply.headers


def test_requests_after_it_and_pipelined_ones_are_answered_in_turn(server: Server) -> None:
    with Wire(server.url) as wire:
        for _ in range(2):
            wire.send(post(*JAVA))
            assert wire.reply().status == 200
        asked = [post(*JAVA), chunked(*JAVA), post(), b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n", post(*JAVA, path="/no")]
        wire.send(b"".join(asked))
        assert [wire.reply().status for _ in asked] == [200, 200, 200, 200, 404]
        wire.send(head(*JAVA, "Content-Length: 0"))
        assert "the body is empty" in wire.reply().json["detail"]


def test_a_get_with_an_offer_and_one_that_waits_for_leave_to_send(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.send(("\r\n".join(["GET /health HTTP/1.1", "Host: a", *JAVA]) + "\r\n\r\n").encode())
        assert wire.reply().status == 200
        wire.send(head(*JAVA, "Expect: 100-continue", f"Content-Length: {len(RAW)}"))
        assert wire.sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        wire.send(RAW)
        assert wire.reply().status == 200


def test_a_tunnel_is_refused_and_the_server_lives(server: Server) -> None:
    for offer in ((), JAVA):
        with Wire(server.url) as wire:
            wire.send(("\r\n".join(["CONNECT a.example:443 HTTP/1.1", "Host: a", *offer]) + "\r\n\r\n").encode())
            assert wire.sock.recv(100).split(b" ")[1] in (b"400", b"404", b"405")
    with Wire(server.url) as wire:
        wire.send(post())
        assert wire.reply().status == 200
    assert "Traceback" not in server.output


def test_thousands_of_offers_in_one_packet(server: Server) -> None:
    one = ("\r\n".join(["GET /live HTTP/1.1", "Host: a", "Upgrade: a", "Connection: upgrade"]) + "\r\n\r\n").encode()
    with Wire(server.url) as wire:
        wire.send(one * 3000)
        assert {wire.reply().status for _ in range(3000)} == {200}


JAVA_CALLER = """
import java.net.URI;
import java.net.http.*;
public class Caller {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 2; i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java here")
def test_java_with_default_settings_is_answered(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Caller.java").write_text(JAVA_CALLER)
    command = ["java", "-Xmx64m", "-XX:TieredStopAtLevel=1", "Caller.java", f"{server.url}/rerank", json.dumps(GOOD)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["200", "200"], done.stderr


APPLICATION = """
from fake_server import scorer
from reranker_serve.app import create_app
from reranker_serve.environment import load_settings
app = create_app(load_settings()[0], scorer())
"""
# The settings come as for `reranker-serve`; where to listen is uvicorn's own.
UVICORN = """
import os, sys
from uvicorn.main import main
main([*sys.argv[1:], "--port", os.environ["RERANKER_PORT"]])
"""


@pytest.fixture(params=[True, False], ids=["our connections", "uvicorn's own"])
def under_uvicorn(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, bool]]:
    """A server that uvicorn's own command starts, and whether it was told of our connections."""
    (tmp_path / "application.py").write_text(APPLICATION)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *sys.path]))
    flags = ["--http", "reranker_serve.connections:BoundedConnection"] if request.param else []
    with running(tmp_path, [sys.executable, "-c", UVICORN, *flags, "application:app"]) as server:
        server.wait_ready()
        yield server, request.param


def test_under_uvicorn_with_our_connections_or_told_what_helps(under_uvicorn: tuple[Server, bool]) -> None:
    """With uvicorn's own connections the body is lost before the application is asked."""
    server, ours = under_uvicorn
    for message in post(*JAVA), chunked(*JAVA):
        with Wire(server.url) as wire:
            wire.send(message)
            reply = wire.reply()
        assert reply.status == (200 if ours else 400)
        assert ours or "--http reranker_serve.connections:BoundedConnection" in reply.json["detail"]
