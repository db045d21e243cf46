"""A LoRA adapter is merged into its base: scores are those of the whole model, or it is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from reranker_serve.backends.torch.weights import load_weights
from reranker_serve.checkpoint import read_folder
from reranker_serve.errors import ModelError, StartupError
from reranker_serve.model_files.assemble import assembled
from reranker_serve.readouts import ClassifierReadout
from tests.adapters import Tensors, raw_scores, save_adapter, save_merged, scale
from tests.checkpoints import load_scorer, save_cross_encoder, save_language_model

BERT = {
    f"bert.encoder.layer.{layer}.attention.self.{part}": (48, 48) for layer in range(3) for part in ("query", "value")
}
QWEN = {
    f"model.layers.{layer}.{part}": shape
    for layer in (0, 2)
    for part, shape in (
        ("self_attn.q_proj", (64, 64)),
        ("self_attn.v_proj", (32, 64)),
        ("mlp.down_proj", (64, 96)),
    )
}
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model("qwen3", tmp_path_factory.mktemp("qwen"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the setting does to this process ends with the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def refusal(folder: Path, **settings: str) -> str:
    with pytest.raises(StartupError) as caught:
        load_scorer(folder, **settings)
    line = str(caught.value)
    assert "\n" not in line
    assert "/reranker-" not in line, "a temporary folder is none that a user knows"
    return line


def head(rows: int = 1, columns: int = 48) -> Tensors:
    random = np.random.default_rng(1)
    return {
        "classifier.weight": random.normal(0, 0.3, (rows, columns)).astype(np.float32),
        "classifier.bias": random.normal(0, 0.3, rows).astype(np.float32),
    }


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_scores_are_the_merged_models(bert: Path, tmp_path: Path, rslora: bool, beside: bool) -> None:
    folder = tmp_path / "adapter"
    if beside:
        shutil.copytree(bert, folder)
    base = "not/needed" if beside else bert
    save_adapter(folder, base, BERT, head(), use_rslora=rslora, task_type="SEQ_CLS")
    expected = raw_scores(load_scorer(save_merged(tmp_path / "merged", bert, folder, scale(rslora))))
    got = raw_scores(load_scorer(folder, use_offline_mode="true"))
    assert np.abs(got - expected).max() < TOLERANCE
    assert np.abs(got - raw_scores(load_scorer(bert))).max() > 0.01


def test_laying_out_leaves_everything_where_it_was(bert: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bert, base)
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text("{}")
    adapter = save_adapter(tmp_path / "adapter", base, BERT)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with assembled(adapter, base) as folder:
        assert (folder / "1_Pooling" / "config.json").read_text() == "{}"
    assert not folder.exists()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["qwen3", "qwen3-untied"])
def test_an_adapter_of_a_language_model(tmp_path: Path, name: str) -> None:
    base = save_language_model(name, tmp_path / "base")
    layers = {layer: shape for layer, shape in QWEN.items() if ".2." not in layer}
    if name == "qwen3-untied":
        layers["lm_head"] = load_file(base / "model.safetensors")["lm_head.weight"].shape
    adapter = save_adapter(tmp_path / "adapter", base, layers, task_type="CAUSAL_LM")
    expected = raw_scores(load_scorer(save_merged(tmp_path / "merged", base, adapter, scale())))
    scorer = load_scorer(adapter)
    assert scorer.family.prompt == "qwen3-reranker"
    assert np.abs(raw_scores(scorer) - expected).max() < 10 * TOLERANCE


def test_a_classifier_that_was_trained_on_a_language_model(qwen: Path, tmp_path: Path) -> None:
    score = np.random.default_rng(1).normal(0, 0.3, (1, 64)).astype(np.float32)
    adapter = save_adapter(tmp_path / "adapter", qwen, QWEN, {"score.weight": score}, task_type="SEQ_CLS")
    classifier = {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    merged = save_merged(tmp_path / "merged", qwen, adapter, scale(), **classifier)
    scorer = load_scorer(adapter)
    assert scorer.info.architecture == "Qwen3ForSequenceClassification"
    assert np.abs(raw_scores(scorer) - raw_scores(load_scorer(merged))).max() < TOLERANCE


def test_the_head_of_an_adapter_replaces_one_of_another_shape(bert: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bert, base)
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | head(2), base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (base / "config.json").write_text(json.dumps(config))
    adapter = save_adapter(tmp_path / "adapter", base, BERT, head(), task_type="SEQ_CLS")
    merged = save_merged(tmp_path / "merged", bert, adapter, scale())
    assert np.abs(raw_scores(load_scorer(adapter)) - raw_scores(load_scorer(merged))).max() < TOLERANCE


def test_weights_are_summed_in_float32_and_rounded_once(bert: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", bert, BERT)
    merged = load_file(save_merged(tmp_path / "merged", bert, adapter, scale()) / "model.safetensors")
    with assembled(adapter, bert) as folder:
        model = load_weights(read_folder(folder), ClassifierReadout(), torch.bfloat16, "cpu")
    for name in BERT:
        expected = torch.from_numpy(merged[f"{name}.weight"]).to(torch.bfloat16)
        got = model.get_submodule(name).weight
        assert got.dtype is torch.bfloat16
        assert (got != expected).float().mean() < 0.001


def test_the_tokenizer_and_the_template_may_be_the_adapters(bert: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", bert, BERT)
    plain = load_scorer(adapter).family.tokens("Sun", False)
    text = (bert / "tokenizer.json").read_text()
    (adapter / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    assert load_scorer(adapter).family.tokens("Sun", False) != plain


def test_an_adapter_is_not_left_out_where_it_was_not_laid_out(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "both")
    with pytest.raises(ModelError, match="adapter beside its weights"):
        load_weights(
            read_folder(save_adapter(tmp_path / "both", bert, BERT)), ClassifierReadout(), torch.float32, "cpu"
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("rank_pattern", {"query": 8}),
        ("alpha_pattern", {"query": 8}),
        ("fan_in_fan_out", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("peft_type", "LOHA"),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts"]),
        ("kasa_config", {"beta": 1}),
    ],
)
def test_what_changes_the_formula_is_refused_by_its_key(bert: Path, tmp_path: Path, key: str, value: object) -> None:
    adapter = save_adapter(tmp_path / "adapter", bert, BERT, **{key: value})
    line = refusal(adapter)
    assert f"adapter_config.json: an adapter with {key} {json.dumps(value)} " in line


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.lora_embedding_A",
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.lora_magnitude_vector",
        "bert.encoder.layer.0.attention.self.query.bias",
        "bert.encoder.layer.0.attention.self.key.lora_A.weight",
        "bert.encoder.layer.7.attention.self.query.lora_A.weight",
    ],
)
def test_a_tensor_that_is_of_no_known_layer_is_named(bert: Path, tmp_path: Path, name: str) -> None:
    layers = {name.removesuffix(".lora_A.weight"): (48, 48)} if ".layer.7." in name else {}
    adapter = save_adapter(tmp_path / "adapter", bert, BERT | layers)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path) | ({} if layers else {f"base_model.model.{name}": np.zeros((4, 48), np.float32)})
    save_file(tensors, path, {"format": "pt"})
    line = refusal(adapter)
    assert f"{path}: {name} " in line


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_the_table_of_words_is_not_merged_into(qwen: Path, tmp_path: Path, name: str) -> None:
    rows = load_file(qwen / "model.safetensors")["model.embed_tokens.weight"].shape
    assert f"{name}.lora_A.weight" in refusal(save_adapter(tmp_path / "adapter", qwen, {name: rows}))


def test_an_adapter_of_another_model_is_told_by_its_shapes(bert: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", bert, {next(iter(BERT)): (48, 32)})
    assert "the base is another model" in refusal(adapter)


def test_a_missing_base_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "some/base", BERT)
    line = refusal(adapter, use_offline_mode="true", model_cache_dir=str(tmp_path / "models"))
    assert line.startswith(f"{adapter} is an adapter, and its base is missing: some/base is not on this machine")
    assert f"./download_model.sh some/base {tmp_path / 'models'}" in line
    line = refusal(save_adapter(tmp_path / "local", "/home/me/base", BERT))
    assert "/home/me/base is not on this machine" in line
    assert "adapter_config.json" in line
    assert "base_model_name_or_path" in refusal(
        save_adapter(tmp_path / "none", "x", BERT, base_model_name_or_path=None)
    )


def test_the_base_is_found_by_its_name_where_models_are_downloaded_to(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "some_base").symlink_to(bert)
    adapter = save_adapter(tmp_path / "adapter", "some/base", BERT)
    settings = {"use_offline_mode": "true", "model_cache_dir": str(tmp_path / "models")}
    assert load_scorer(adapter, **settings).info.revision.startswith("local-")
    beside = save_adapter(tmp_path / "models" / "adapter", "some/base", BERT)
    assert load_scorer(beside, use_offline_mode="true").info.architecture == "BertForSequenceClassification"


def test_an_adapter_of_an_adapter_and_one_without_weights_are_refused(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "first")
    first = save_adapter(tmp_path / "first", bert, BERT)
    assert "is an adapter, too" in refusal(save_adapter(tmp_path / "second", first, BERT))
    (first / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in refusal(first)
