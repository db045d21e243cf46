"""What cannot be served is refused in one line, before torch is loaded where possible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reranker_serve.errors import ModelError, SettingsError, StartupError
from reranker_serve.families.registry import read_checkpoint
from tests.checkpoints import load_scorer, save_cross_encoder

CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "id2label": {"0": "x"}}


def folder(tmp_path: Path, config: object, *files: str) -> Path:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (tmp_path / name).touch()
    return tmp_path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_no_folder(tmp_path: Path) -> None:
    assert "there is no model folder" in refusal(tmp_path / "nowhere")


def test_no_configuration(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize("config", ["{oops", "[]", ""])
def test_a_broken_configuration(tmp_path: Path, config: str) -> None:
    assert "config.json" in refusal(folder(tmp_path, config))


@pytest.mark.parametrize("labels", [{"id2label": {"0": "a", "1": "b"}}, {"id2label": None}, {"num_labels": 3}])
def test_a_classifier_of_several_labels_is_no_reranker(tmp_path: Path, labels: dict[str, object]) -> None:
    config = {name: value for name, value in (CLASSIFIER | labels).items() if value is not None}
    if "num_labels" in labels:
        del config["id2label"]
    assert "has one label" in refusal(folder(tmp_path, config, "model.safetensors"))


@pytest.mark.parametrize("architecture", ["T5Model", "BertForMaskedLM", None])
def test_an_unknown_architecture_lists_the_known_ones(tmp_path: Path, architecture: str | None) -> None:
    config = {"architectures": [architecture]} if architecture else {}
    line = refusal(folder(tmp_path, config, "model.safetensors"))
    assert "XLMRobertaForSequenceClassification" in line
    assert "BertModel" in line


def test_an_embedding_model_needs_its_modules(tmp_path: Path) -> None:
    assert "modules.json" in refusal(folder(tmp_path, {"architectures": ["BertModel"]}, "model.safetensors"))


def test_no_weights(tmp_path: Path) -> None:
    assert "model.safetensors is missing" in refusal(folder(tmp_path, CLASSIFIER))


def test_pickled_weights(tmp_path: Path) -> None:
    assert "pickled weights only" in refusal(folder(tmp_path, CLASSIFIER, "pytorch_model.bin"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder("bert", tmp_path_factory.mktemp("bert"))


def copy(saved: Path, target: Path) -> Path:
    for file in saved.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def load_refusal(path: Path, **settings: str) -> str:
    with pytest.raises(StartupError) as caught:
        load_scorer(path, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_truncated_weights(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "cannot be loaded" in load_refusal(path)


def test_weights_without_the_classifier(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path)
    tensors = {
        name: tensor for name, tensor in load_file(path / "model.safetensors").items() if "classifier" not in name
    }
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    line = load_refusal(path)
    assert "lack 2 tensor(s)" in line
    assert "classifier.bias" in line


def test_weights_of_which_a_part_is_missing(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path)
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    names = load_file(path / "model-00001-of-00002.safetensors")
    index = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    index["classifier.weight"] = "model-00002-of-00002.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert "cannot be loaded" in load_refusal(path)


def test_weights_of_another_shape(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_size": 24}))
    assert "other shapes" in load_refusal(path)


def test_a_max_length_beyond_the_models_positions(saved: Path) -> None:
    with pytest.raises(SettingsError, match=r"RERANKER_MAX_LENGTH=131.*130 positions"):
        load_scorer(saved, max_length="131")
    assert load_scorer(saved, max_length="130").family.max_length_bounds[1] == 130
    assert load_scorer(saved).family.max_length_bounds[1] == 128, "what tokenizer_config.json declares"


def test_a_device_that_is_not_there(saved: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert "RERANKER_DEVICE=cuda" in load_refusal(saved, device="cuda")
