"""Servers asked over HTTP: ours in every API, and small ones that are as picky as others are."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reranker_serve.errors import StartupError
from reranker_serve.tools.dialects import DIALECTS
from reranker_serve.tools.remote import Remote, RemoteRanker, _pause
from tests.calibrations import calibration
from tests.server.processes import FAKE_SERVER, Server, running

QUERY = "blue whale"
DOCUMENTS = ["red fox", "whale song blue whale", "blue sky", "blue whale"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with running(folder, FAKE_SERVER, model_name="fake", api_key="secret", max_documents="3") as server:
        server.wait_ready()
        yield server


def asked(address: str, key: str | None = None) -> tuple[list[float], dict[str, Any]]:
    ranker = RemoteRanker(Remote.parse(address, key))
    try:
        scores, seconds = ranker.score(QUERY, DOCUMENTS)
        assert seconds > 0
        return scores, ranker.about
    finally:
        ranker.close()


def order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=scores.__getitem__)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_our_server_ranks_the_same_in_every_dialect(server: Server, dialect: str) -> None:
    scores, about = asked(f"{server.url}#{dialect}", "secret")
    assert order(scores) == order(asked(server.url, "secret")[0])
    assert len(set(scores)) > 1
    assert (about["model"], about["precision"], about["dialect"]) == ("fake", "float32", dialect)
    # It takes three documents in a request.
    assert about["most_documents"] == 2


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v2/rerank", "/v1/rerank", "/rerank", "/v1/reranking", "/v1/ranking"]
)
def test_a_base_address_and_an_api_s_own_path_are_understood(server: Server, path: str) -> None:
    assert order(asked(server.url + path, "secret")[0]) == order(asked(server.url, "secret")[0])


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("http://h:1/", Remote("http://h:1")),
        ("http://h/v1#tei", Remote("http://h/v1", "tei")),
        ("https://h#cohere:rerank-v3.5", Remote("https://h", "cohere", "rerank-v3.5")),
        ("https://h#BAAI/bge-reranker-v2-m3", Remote("https://h", None, "BAAI/bge-reranker-v2-m3")),
    ],
)
def test_addresses(address: str, parsed: Remote) -> None:
    assert Remote.parse(address) == parsed


def test_an_unknown_api_is_one_line() -> None:
    with pytest.raises(StartupError, match="coheer is no API that is known: choose one of native, cohere"):
        Remote.parse("http://h#coheer:rerank")


@pytest.mark.parametrize(("key", "hint"), [(None, "give the server's key by --key"), ("wrong", "is the key right, .*")])
def test_a_server_that_wants_a_key_is_one_line(server: Server, key: str | None, hint: str) -> None:
    with pytest.raises(StartupError, match=rf"/rerank answered 401 .*: {hint}$"):
        asked(server.url, key)


def test_a_threshold_of_ours_leaves_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(calibration().model_dump_json())
    thresholds = {"min_score": "0.9", "calibration": str(tmp_path / "calibration.json"), "min_probability": "0.999"}
    with running(tmp_path, FAKE_SERVER, model_name="fake", **thresholds) as server:
        server.wait_ready()
        assert len(asked(server.url)[0]) == len(DOCUMENTS)


# --- others ---


class Picky(BaseHTTPRequestHandler):
    """Answers by `answer(path, headers, body) -> status, reply, reply's headers`."""

    answer: Callable[[str, Any, dict[str, Any]], tuple[int, Any, dict[str, str]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, reply, headers = type(self).answer(self.path, self.headers, body)
        content = json.dumps(reply).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def picky(answer: Callable[..., tuple[int, Any, dict[str, str]]]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Picky,), {"answer": staticmethod(answer)})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def best_last(count: int) -> list[dict[str, float]]:
    return [{"index": index, "score": float(index)} for index in reversed(range(count))]


def test_a_server_of_one_api_is_found_out() -> None:
    def tei(path: str, _: Any, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if path != "/rerank" or "texts" not in body:
            return 422, "Failed to deserialize", {}
        return 200, best_last(len(body["texts"])), {}

    with picky(tei) as url:
        scores, about = asked(url)
    assert (scores, about["dialect"], about["most_documents"]) == ([0.0, 1.0, 2.0, 3.0], "tei", None)


@pytest.mark.parametrize("asked_for", ["-1", "nan", "soon", "0"])
def test_a_pause_that_makes_no_sense_is_made_up(asked_for: str) -> None:
    assert 0 <= _pause(asked_for, 0) <= 1


def test_a_busy_server_is_asked_again_and_the_wait_is_not_counted() -> None:
    calls: list[str] = []

    def busy(path: str, headers: Any, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        calls.append(headers["Authorization"])
        if len(calls) % 2:
            return 429, {"message": "slowly"}, {"Retry-After": "0.5"}
        return 200, {"results": best_last(len(body["documents"]))}, {}

    with picky(busy) as url:
        ranker = RemoteRanker(Remote(url, "cohere", key="k"))
        scores, seconds = ranker.score(QUERY, DOCUMENTS)
        ranker.close()
    assert scores == [0.0, 1.0, 2.0, 3.0]
    assert seconds < 0.5
    assert calls == ["Bearer k"] * 4


def test_the_model_s_name_is_sent_only_where_it_was_given() -> None:
    models: list[str | None] = []

    def named(path: str, _: Any, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        models.append(body.get("model"))
        return 200, {"data": best_last(len(body["documents"]))}, {}

    with picky(named) as url:
        asked(f"{url}#voyage")
        asked(f"{url}#voyage:rerank-2.5")
    assert models == [None, None, "rerank-2.5", "rerank-2.5"]


@pytest.mark.parametrize(
    ("status", "reply", "said"),
    [
        (404, "nothing here", r"gives no ranking \(native, .*, pinecone: 404 \"nothing here\"\): name its API"),
        (200, {"results": [{"index": 0, "score": 1}]}, "a reply that has scores of 1 documents, not of 2"),
        (200, {"results": [{"index": 0, "score": None}, {"index": 1, "score": 1}]}, "a reply that is no ranking"),
        (200, {"results": [{"index": 0, "score": float("nan")}, {"index": 1, "score": 1}]}, "that is no ranking"),
        (200, "<html>", "a reply that is no ranking"),
    ],
)
def test_what_is_no_rerank_server_is_one_line(status: int, reply: Any, said: str) -> None:
    with picky(lambda *_: (status, reply, {})) as url, pytest.raises(StartupError, match=said) as caught:
        asked(url)
    assert "\n" not in str(caught.value)


def test_what_fails_later_is_told_with_the_server_s_words(tmp_path: Path) -> None:
    def failing(path: str, _: Any, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if body["query"] == QUERY:
            return 500, {"error": "broken " * 100}, {}
        return 200, {"results": best_last(len(body["documents"]))}, {}

    with picky(failing) as url, pytest.raises(StartupError, match=r'/rerank answered 500 \{"error": "broken') as caught:
        asked(url)
    assert str(caught.value).endswith("broken …")
    assert len(str(caught.value)) < 300
