"""Probes, facts and the documentation page."""

from __future__ import annotations

import re

import pytest

from reranker_serve import __version__
from tests.conftest import Connect


async def test_health_names_what_is_served(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.get("/health")
    assert reply.status_code == 200
    assert reply.json() == {"status": "healthy", "model": "fake", "device": "cpu", "version": __version__}


@pytest.mark.parametrize("path", ["/health", "/live", "/ready"])
async def test_probes_answer_head(path: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.head(path)
    assert (reply.status_code, reply.content) == (200, b"")


async def test_info_tells_the_model_and_the_limits(connect: Connect) -> None:
    async with connect(max_documents="7", max_body_bytes="2048", max_queue_tokens="99", request_timeout="2") as client:
        facts = (await client.get("/info")).json()
    assert facts == {
        "model": "fake",
        "revision": "none",
        "architecture": "none",
        "family": "fake",
        "prompt": None,
        "score_scale": "relevance_score = sigmoid(raw score); raw score = shared words - 1",
        "device": "cpu",
        "dtype": "float32",
        "attention": "none",
        "limits": {
            "max_length": 512,
            "max_documents": 7,
            "max_body_bytes": 2048,
            "max_queue_tokens": 99,
            "batch_tokens": 16384,
            "request_timeout_s": 2.0,
        },
        "version": __version__,
    }


async def test_models_lists_the_one_served(connect: Connect) -> None:
    async with connect() as client:
        listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["fake"]


async def test_the_documentation_needs_no_network(connect: Connect) -> None:
    async with connect() as client:
        page = (await client.get("/docs")).text
        assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
        assert any(asset.endswith(".js") for asset in assets)
        assert any(asset.endswith(".css") for asset in assets)
        for asset in assets:
            assert asset.startswith("/"), asset
            assert (await client.get(asset)).status_code == 200, asset


async def test_the_description_has_a_body_and_an_example_for_every_rerank_path(connect: Connect) -> None:
    async with connect() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    described = {path: operations["post"] for path, operations in paths.items() if "post" in operations}
    assert set(described) == {"/rerank", "/v1/rerank", "/v2/rerank", "/api/v1/rerank"}
    for operation in described.values():
        body = operation["requestBody"]["content"]["application/json"]
        assert {"query", "documents", "top_n"} <= set(body["schema"]["properties"])
        assert body["examples"]
        assert operation["responses"]["200"]["content"]["application/json"]["example"]
