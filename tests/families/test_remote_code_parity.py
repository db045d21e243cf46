"""Checkpoints published with code of their own score as the native class that computes the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GteConfig
from transformers.models.gte.modeling_gte import GteRotaryEmbedding

from reranker_serve.checkpoint import read_folder
from reranker_serve.errors import ModelError
from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import SMALL, load_scorer, save_cross_encoder
from tests.families.test_cross_encoder_parity import (
    DOCUMENTS,
    LONG,
    QUERY,
    SPREAD,
    TOLERANCE,
    plain_transformers,
    raw_scores,
)
from tests.remote_layouts import as_flash_xlm_roberta, as_new_impl, configure

THETA, FACTOR = 20_000.0, 8.0
# name of the layout -> (native architecture, what is written into the published layout)
LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "new-impl": ("gte", lambda folder: as_new_impl(folder, rope_theta=THETA, rope_scaling=ntk(FACTOR))),
    "new-impl, no scaling": ("gte", lambda folder: as_new_impl(folder, rope_theta=THETA, rope_scaling=None)),
    "xlm-roberta-flash": ("xlm-roberta", as_flash_xlm_roberta),
}


def ntk(factor: float) -> dict[str, object]:
    return {"type": "ntk", "factor": factor}


def ntk_frequencies(theta: float, factor: float, head_dim: int) -> torch.Tensor:
    """NTK-aware scaling as its authors wrote it: a larger base, then all frequencies divided."""
    frequencies = 1.0 / ((theta * factor) ** (torch.arange(0, head_dim, 2).float() / head_dim))
    return frequencies / factor ** (2 / head_dim)


def native_logits(
    folder: Path, layout: str, monkeypatch: pytest.MonkeyPatch, query: str, documents: list[str]
) -> FloatArray:
    """Of the native class, with the published frequencies in the place of its own."""
    if layout == "new-impl":
        head_dim = SMALL["hidden_size"] // SMALL["num_attention_heads"]
        frequencies = ntk_frequencies(THETA, FACTOR, head_dim)
        monkeypatch.setattr(
            GteRotaryEmbedding, "compute_default_rope_parameters", lambda *_: (frequencies.clone(), 1.0)
        )
    return plain_transformers(folder, query, documents)


@pytest.fixture(scope="module", params=LAYOUTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Scorer]:
    """A layout, the native checkpoint, and the published one as the server has it."""
    layout: str = request.param
    architecture, rewrite = LAYOUTS[layout]
    native = save_cross_encoder(architecture, tmp_path_factory.mktemp("native"))
    if architecture == "gte":
        configure(native, {"rope_parameters": {"rope_type": "default", "rope_theta": THETA}})
    published = rewrite(Path(shutil.copytree(native, tmp_path_factory.mktemp("published"), dirs_exist_ok=True)))
    return layout, native, load_scorer(published)


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        pytest.param(QUERY, DOCUMENTS, id="ordinary"),
        pytest.param(QUERY, [LONG, *DOCUMENTS[:4]], id="document too long"),
        pytest.param(LONG, [LONG, *DOCUMENTS[-3:]], id="both too long"),
    ],
)
def test_logits_equal_the_native_class(
    checkpoint: tuple[str, Path, Scorer], query: str, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, native, scorer = checkpoint
    expected = native_logits(native, layout, monkeypatch, query, documents)
    np.testing.assert_allclose(raw_scores(scorer, query, documents), expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected) > SPREAD, "equal logits would prove nothing"


def test_a_score_does_not_depend_on_its_batch_or_place(checkpoint: tuple[str, Path, Scorer]) -> None:
    _, _, scorer = checkpoint
    alone = np.concatenate([raw_scores(scorer, QUERY, [document]) for document in DOCUMENTS])
    order = np.random.default_rng(2).permutation(len(DOCUMENTS))
    shuffled = raw_scores(scorer, QUERY, [DOCUMENTS[i] for i in order])
    np.testing.assert_allclose(shuffled, alone[order], atol=1e-5, rtol=0)


def test_they_are_packed_as_the_native_class_is(checkpoint: tuple[str, Path, Scorer]) -> None:
    assert checkpoint[2].backend.attention.startswith("packed")


def test_scaling_changes_scores(tmp_path: Path) -> None:
    native = save_cross_encoder("gte", tmp_path / "native")
    scores = []
    for factor in (1.0, 8.0):
        folder = Path(shutil.copytree(native, tmp_path / str(factor)))
        scores.append(raw_scores(load_scorer(as_new_impl(folder, rope_scaling=ntk(factor))), QUERY, DOCUMENTS))
    assert np.abs(scores[0] - scores[1]).max() > 100 * TOLERANCE, "else the parity above says nothing about it"


@pytest.mark.parametrize(("theta", "factor", "head_dim"), [(20_000, 8.0, 64), (10_000, 2.0, 12), (500_000, 1, 32)])
def test_frequencies_are_those_of_ntk_scaling_bit_for_bit(
    theta: float, factor: float, head_dim: int, tmp_path: Path
) -> None:
    save_cross_encoder("gte", tmp_path)
    changes = {"hidden_size": 4 * head_dim, "num_attention_heads": 4, "rope_theta": theta, "rope_scaling": ntk(factor)}
    config = GteConfig.from_dict(read_folder(as_new_impl(tmp_path, **changes)).config)
    found = GteRotaryEmbedding(config).inv_freq
    assert torch.equal(found, ntk_frequencies(float(theta), factor, head_dim))


def test_positions_of_flash_xlm_roberta_begin_behind_the_padding_token(tmp_path: Path) -> None:
    folder = as_flash_xlm_roberta(save_cross_encoder("xlm-roberta", tmp_path), max_position_embeddings=1026)
    assert read_folder(folder).positions == 1024


@pytest.mark.parametrize(
    ("rewrite", "changes"),
    [
        (as_new_impl, {"position_embedding_type": "absolute"}),
        (as_new_impl, {"layer_norm_type": "rms_norm"}),
        (as_new_impl, {"logn_attention_scale": True}),
        (as_new_impl, {"pack_qkv": False}),
        (as_new_impl, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        (as_new_impl, {"rope_scaling": {"type": "ntk"}}),
        (as_new_impl, {"rope_scaling": "ntk"}),
        (as_new_impl, {"rope_theta": "large"}),
        (as_new_impl, {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}}),
        (as_flash_xlm_roberta, {"position_embedding_type": "rotary"}),
        (as_flash_xlm_roberta, {"hidden_act": "relu"}),
        (as_flash_xlm_roberta, {"lora_adaptations": ["retrieval.query"]}),
    ],
)
def test_what_the_native_class_does_not_compute_is_refused(
    rewrite: Callable[..., Path], changes: dict[str, object], tmp_path: Path
) -> None:
    folder = save_cross_encoder("gte" if rewrite is as_new_impl else "xlm-roberta", tmp_path)
    with pytest.raises(ModelError) as caught:
        load_scorer(rewrite(folder, **changes))
    line = str(caught.value)
    assert "config.json" in line
    assert next(iter(changes)) in line
    assert "\n" not in line


def test_published_eurobert_calls_its_pooling_otherwise(tmp_path: Path) -> None:
    native = save_cross_encoder("eurobert-mean", tmp_path / "native")
    published = Path(shutil.copytree(native, tmp_path / "published"))
    configure(published, {"classifier_pooling": None, "clf_pooling": "mean", "auto_map": {"AutoConfig": "x.Y"}})
    expected = plain_transformers(native, QUERY, DOCUMENTS)
    np.testing.assert_allclose(raw_scores(load_scorer(published), QUERY, DOCUMENTS), expected, atol=TOLERANCE, rtol=0)


def test_the_published_tensors_are_named_as_the_repositories_name_them(tmp_path: Path) -> None:
    flash = as_flash_xlm_roberta(save_cross_encoder("xlm-roberta", tmp_path / "flash"))
    names = set(load_file(flash / "model.safetensors"))
    assert {"roberta.emb_ln.weight", "roberta.encoder.layers.0.mixer.Wqkv.bias"} <= names
    assert {"roberta.encoder.layers.2.mlp.fc2.weight", "classifier.out_proj.weight"} <= names
    assert not {name for name in names if ".encoder.layer." in name}
    new = as_new_impl(save_cross_encoder("gte", tmp_path / "new"))
    names = set(load_file(new / "model.safetensors"))
    assert {"new.encoder.layer.0.attention.qkv_proj.weight", "new.encoder.layer.0.mlp.up_gate_proj.weight"} <= names
    assert {"new.encoder.layer.0.attn_ln.weight", "new.pooler.dense.weight", "classifier.weight"} <= names
    assert not {name for name in names if "gte." in name or "self_attn" in name}


def test_an_older_transformers_is_told_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = as_new_impl(save_cross_encoder("gte", tmp_path))
    monkeypatch.setattr("reranker_serve.backends.torch.translated.transformers.GteForSequenceClassification", None)
    with pytest.raises(ModelError, match=r"has no GteForSequenceClassification.*install transformers 5.23 or later"):
        load_scorer(folder)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    weights = as_flash_xlm_roberta(save_cross_encoder("xlm-roberta", tmp_path)) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"the weights in .* cannot be loaded: .*; download the model again"):
        load_scorer(tmp_path)


def test_transformers_itself_does_not_read_these_folders(tmp_path: Path) -> None:
    folder = as_flash_xlm_roberta(save_cross_encoder("xlm-roberta", tmp_path))
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
