"""Folders in the layouts that publishers use, through the whole application: HTTP gives their own library's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import GteConfig

from reranker_serve.app import create_app
from reranker_serve.types import FloatArray
from tests.checkpoints import load_scorer, save_cross_encoder
from tests.conftest import fake_settings
from tests.families import test_bidirectional as two_way
from tests.families import test_modular_cross_encoder as modular
from tests.families.test_cross_encoder_parity import plain_transformers
from tests.remote_layouts import as_flash_xlm_roberta, as_new_impl

QUERY = "how do plants make food"
DOCUMENTS = ["the stock market fell", "light water sugar leaf", "bread", "the stock market fell", ""]
# Saves a folder in its published layout; returns it, and the scores of QUERY with DOCUMENTS.
Published = Callable[[Path], tuple[Path, FloatArray]]


def remote(model_type: str, disguise: Callable[[Path], Path]) -> Published:
    def publish(folder: Path) -> tuple[Path, FloatArray]:
        expected = plain_transformers(save_cross_encoder(model_type, folder), QUERY, DOCUMENTS)
        return disguise(folder), expected

    return publish


def unscaled_new_impl(folder: Path) -> Path:
    """With the rope that the native class has by itself."""
    return as_new_impl(folder, rope_scaling=None, rope_theta=GteConfig().rope_parameters["rope_theta"])


def ettin(folder: Path) -> tuple[Path, FloatArray]:
    saved = modular.save("ettin", folder)
    model = CrossEncoder(str(saved), device="cpu")
    return saved, model.predict([(QUERY, text) for text in DOCUMENTS], activation_fn=nn.Identity())


def nemotron(folder: Path) -> tuple[Path, FloatArray]:
    saved = two_way.save(folder, pooling="avg", temperature=0.2)
    return saved, two_way.published(saved, QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    "publish",
    [remote("gte", unscaled_new_impl), remote("xlm-roberta", as_flash_xlm_roberta), ettin, nemotron],
    ids=["gte-multilingual", "jina-v2", "ettin", "nemotron"],
)
async def test_a_published_layout_over_http(publish: Published, tmp_path: Path) -> None:
    folder, expected = publish(tmp_path / "model")
    app = create_app(fake_settings(model_name="any"), load_scorer(folder))
    transport = httpx.ASGITransport(app)
    body = {"query": QUERY, "documents": DOCUMENTS}
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        raw = (await http.post("/rerank", json=body | {"raw_scores": True})).json()["results"]
        relevance = (await http.post("/v2/rerank", json=body)).json()["results"]
    got = {row["index"]: row["relevance_score"] for row in raw}
    np.testing.assert_allclose([got[index] for index in range(len(DOCUMENTS))], expected, atol=1e-4, rtol=0)
    assert [row["relevance_score"] for row in raw] == sorted(got.values(), reverse=True)
    sigmoid = 1 / (1 + np.exp(-np.sort(expected.astype(np.float64))[::-1]))
    np.testing.assert_allclose([row["relevance_score"] for row in relevance], sigmoid, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 0.01, "equal scores would prove nothing"
