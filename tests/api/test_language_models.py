"""Language-model rerankers through the whole application, from checkpoint folder to JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from reranker_serve.app import create_app
from reranker_serve.families.prompts import PROMPTS
from tests.checkpoints import LANGUAGE_MODELS, PUBLISHED_AS, load_scorer, save_language_model
from tests.conftest import fake_settings
from tests.published import MAX_LENGTH, Published

QUERY = "how do plants make food"
DOCUMENTS = ["the stock market fell", "light water sugar leaf", "bread", "the stock market fell", ""]


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, save_language_model(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture
async def client(folder: tuple[str, Path]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(fake_settings(model_name="any"), load_scorer(folder[1], max_length=str(MAX_LENGTH)))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def test_raw_scores_are_the_published_ones(client: httpx.AsyncClient, folder: tuple[str, Path]) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}
    results = (await client.post("/rerank", json=body)).json()["results"]
    got = [row["relevance_score"] for row in sorted(results, key=lambda row: row["index"])]
    np.testing.assert_allclose(got, Published(*folder).raw(QUERY, DOCUMENTS), atol=1e-4, rtol=0)
    assert [row["relevance_score"] for row in results] == sorted(got, reverse=True)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/api/v1/rerank"])
async def test_every_api_gives_the_sigmoid_once(client: httpx.AsyncClient, folder: tuple[str, Path], path: str) -> None:
    results = (await client.post(path, json={"query": QUERY, "documents": DOCUMENTS})).json()["results"]
    shift = 6.0 if PUBLISHED_AS[folder[0]].startswith("mixedbread-ai") else 0.0
    divisor = 5.0 if folder[0] == "zerank" else 1.0
    raw = Published(*folder).raw(QUERY, DOCUMENTS).astype(np.float64)
    expected = 1 / (1 + np.exp((shift - raw) / divisor))
    for row in results:
        assert row["relevance_score"] == pytest.approx(expected[row["index"]], abs=1e-4)


async def test_an_instruction_changes_the_scores_or_is_an_error(
    client: httpx.AsyncClient, folder: tuple[str, Path]
) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}
    plain = await client.post("/rerank", json=body)
    told = await client.post("/rerank", json=body | {"instruction": "find bread"})
    if folder[0] in ("gemma", "gemma-classifier", "zerank"):
        assert told.status_code == 400
        assert "takes no instruction" in told.json()["message"]
    else:
        assert told.json()["results"] != plain.json()["results"]
        assert told.json()["usage"]["prompt_tokens"] != plain.json()["usage"]["prompt_tokens"]


async def test_usage_counts_prefix_and_equal_documents_once(client: httpx.AsyncClient) -> None:
    async def tokens(documents: list[str]) -> int:
        reply = await client.post("/rerank", json={"query": QUERY, "documents": documents})
        return int(reply.json()["usage"]["prompt_tokens"])

    one, two = await tokens(["bread"]), await tokens(["bread", "yeast"])
    assert await tokens(["bread", "bread"]) == one
    assert two < 2 * one


async def test_the_reply_tells_what_was_cut(client: httpx.AsyncClient) -> None:
    body = {"query": QUERY, "documents": ["bread", "bread " * 2000]}
    reply = (await client.post("/rerank", json=body)).json()
    assert reply["query_truncated"] is False
    assert {row["index"]: row["truncated"] for row in reply["results"]} == {0: False, 1: True}
    reply = (await client.post("/rerank", json=body | {"query": QUERY * 500})).json()
    assert reply["query_truncated"] is True


async def test_info_names_family_and_prompt(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    assert info["family"] == "yes_no"
    assert info["prompt"] in PROMPTS
    assert "raw score" in info["score_scale"]


async def test_the_servers_instruction_holds_where_a_request_brings_none(tmp_path: Path) -> None:
    scorer = load_scorer(save_language_model("qwen3", tmp_path), max_length=str(MAX_LENGTH))

    async def reply(asked: str | None, **settings: str) -> list[dict[str, object]]:
        app = create_app(fake_settings(**settings), scorer)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        async with app.router.lifespan_context(app), http:
            body = {"query": QUERY, "documents": DOCUMENTS, "instruction": asked}
            results: list[dict[str, object]] = (await http.post("/rerank", json=body)).json()["results"]
            return results

    by_server = await reply(None, instruction="find bread")
    assert by_server == await reply("find bread")
    assert by_server != await reply(None)
    assert await reply("find yeast", instruction="find bread") == await reply("find yeast")
