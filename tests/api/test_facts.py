"""Probes, facts and the documentation page."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import pytest

from reranker_serve import __version__
from reranker_serve.api.dialects.table import DIALECTS
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
        "listwise": False,
        "takes_instruction": False,
        "device": "cpu",
        "lanes": [{"device": "cpu", "state": "up", "reason": None}],
        "dtype": "float32",
        "precision_note": None,
        "attention": "none",
        "calibration": None,
        "thresholds": {"min_score": None, "min_probability": None},
        "limits": {
            "max_length": 512,
            "max_documents": 7,
            "max_body_bytes": 2048,
            "max_queue_tokens": 99,
            "max_queue_seconds": 30.0,
            "batch_tokens": 16384,
            "request_timeout_s": 2.0,
        },
        "version": __version__,
        "model_id": "fake",
        "model_sha": "none",
        "model_dtype": "float32",
        "served_model_name": "fake",
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": 1,
        "max_input_length": 512,
        "max_batch_tokens": 16384,
        "max_batch_requests": None,
        "max_client_batch_size": 7,
        "auto_truncate": True,
        "tokenization_workers": 2,
        "sha": None,
        "docker_label": None,
    }


async def test_the_documentation_needs_no_network(connect: Connect) -> None:
    async with connect() as client:
        page = (await client.get("/docs")).text
        assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
        assert any(asset.endswith(".js") for asset in assets)
        assert any(asset.endswith(".css") for asset in assets)
        for asset in assets:
            assert not urlsplit(asset).netloc, asset
            assert (await client.get(urljoin("/docs", asset))).status_code == 200, asset


async def test_the_description_has_each_dialect_under_its_vendor_with_examples(connect: Connect) -> None:
    async with connect() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for dialect in DIALECTS:
        operation = paths[dialect.paths[0].replace("{model:path}", "{model}")]["post"]
        assert operation["tags"] == [dialect.vendor]
        body = operation["requestBody"]["content"]["application/json"]
        assert dialect.list_field in body["schema"]["properties"]
        assert "$ref" not in str(body["schema"])
        assert all(example["value"] for example in body["examples"].values())
        replies = operation["responses"]
        assert {"200", "401", "429"} < set(replies)
        assert all(reply["content"]["application/json"]["example"] for reply in replies.values())
    described = {path for path, operations in paths.items() if "post" in operations}
    assert described == {dialect.paths[0] for dialect in DIALECTS} | {"/tokenize"}


async def test_what_machines_ask_all_the_time_is_not_in_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "reranker_serve.access")
    async with connect() as client:
        for path in ("/health", "/metrics", "/v1/health/ready", "/info", "/docs"):
            await client.get(path)
    lines = [record for record in caplog.records if record.name == "reranker_serve.access"]
    assert {line.getMessage().split()[1]: line.levelname for line in lines} == {
        "/health": "DEBUG",
        "/metrics": "DEBUG",
        "/v1/health/ready": "DEBUG",
        "/info": "INFO",
        "/docs": "INFO",
    }
