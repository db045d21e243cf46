"""Paths that are nearly ours: 404 whatever is odd about them, never 500, and the path that was meant."""

from __future__ import annotations

import pytest

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.dialects.table import DIALECTS
from tests.conftest import Connect

GOOD = {"query": "blue whale", "documents": ["the blue whale"]}
POSTED = ["/rerank", "/v1/rerank", "/score", "/predict", "/v1/retrieval/m/reranking", "/pinecone/rerank", "/tokenize"]
GOT = ["/health", "/live", "/ping", "/v1/cluster/auth", "/info", "/metrics", "/v1/models", "/docs", "/openapi.json"]
ODD = ["%0A", "%0D", "%00", "%0D%0A", "%0B", "%1C", "%7F", "%09", "%20", "%C2%85", "%E2%80%A8", "%FF", ";a=1", "%3Fa=1"]


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_character_makes_another_path(odd: str, connect: Connect) -> None:
    async with connect() as client:
        for method, paths in (("POST", POSTED), ("GET", GOT)):
            for path in paths:
                for asked in (path + odd, path + "/" + odd, "/" + odd + path.lstrip("/"), path[:2] + odd + path[2:]):
                    reply = await client.request(method, asked, json=GOOD)
                    right = (200,) if asked.startswith(("/v1/models/", "/v1/retrieval/")) else ()
                    assert reply.status_code in (404, *right), (asked, reply.text)
                    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("odd", ["%0A", "%0D", "%00", "a%0Ab", "%0Ab"])
async def test_no_parameter_of_a_path_holds_a_line_break(odd: str, connect: Connect) -> None:
    async with connect() as client:
        for path in (f"/v1/models/{odd}", f"/v1/models/a/{odd}", f"/docs/assets/{odd}"):
            assert (await client.get(path)).status_code == 404, path
        reply = await client.post(f"/v1/retrieval/{odd}/reranking", json=GOOD)
        assert reply.status_code == 404


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("/v1", "POST to /v1/rerank"),
        ("/v2/", "POST to /v2/rerank"),
        ("/api", "POST to /api/v1/rerank"),
        ("/rerankk", "POST to /rerank"),
        ("/v3/rerank", "POST to /v2/rerank; if the client adds /rerank, its base URL must end in /v2"),
        ("/v1/rerank/rerank", "POST to /v1/rerank; if the client adds /rerank, its base URL must end in /v1"),
        ("/v1/score/score", "POST to /v1/score; if the client adds /score, its base URL must end in /v1"),
        ("/rerank/v2/rerank", "POST to /v2/rerank; if the client adds /v2/rerank, its base URL must end before it"),
        ("/v1/rerank/v1/rerank", "POST to /v1/rerank; if the client adds /v1/rerank, its base URL must end before it"),
        ("/api/rerank", "POST to /api/v1/rerank; if the client adds /rerank, its base URL must end in /api/v1"),
        ("/prefix/rerank", "POST to /rerank; if the client adds /rerank, its base URL must end before it"),
        ("/v1/embeddings", "to rerank, POST to /rerank"),
        ("/favicon.ico", "to rerank, POST to /rerank"),
    ],
)
async def test_who_asks_beside_a_rerank_path_is_told_the_right_one(asked: str, said: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post(asked, json=GOOD)
    assert reply.status_code == 404
    assert reply.json()["detail"] == f"there is no {asked.rstrip('/')} here: {said}"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_the_path_that_is_named_answers(dialect: Dialect, connect: Connect) -> None:
    async with connect() as client:
        for path in dialect.paths:
            for asked in (f"/x{path}", f"{path}/x", f"{path}{path}", path[:-1]):
                line = (await client.post(asked, json=GOOD)).json().get("detail", "")
                if "POST to" in line:
                    named = line.split("POST to ")[1].split(";")[0]
                    assert (await client.post(named, json=GOOD)).status_code in (200, 422), (asked, line)


async def test_a_character_that_does_not_show_is_shown(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/v1/rerank%0A", json={"query": "a", "documents": ["b"]})
    assert reply.json()["detail"].startswith("there is no /v1/rerank%0A here: POST to /v1/rerank")


@pytest.mark.parametrize("path", ["/docs/assets", "/docs/assets/", "/rerank/", "/health/"])
async def test_nobody_is_sent_in_a_circle(path: str, connect: Connect) -> None:
    async with connect(enable_docs="true") as client:
        assert not (await client.get(path)).has_redirect_location
