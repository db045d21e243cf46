"""What cannot be served is refused in one line, before torch is loaded where possible."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reranker_serve.errors import ModelError, SettingsError, StartupError
from reranker_serve.families.refusals import REFUSALS
from reranker_serve.families.registry import KINDS, read_checkpoint
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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "(a, b), and nothing tells which of them means relevant"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "nothing tells which of them means relevant"),
        ({"id2label": None}, "nothing tells which of them means relevant"),
        ({"id2label": {"0": "entailment", "1": "not_entailment"}}, "it is no reranker"),
        ({"id2label": {"0": "relevant", "1": "neutral"}}, "it is no reranker"),
        ({"id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"}}, "it is no reranker"),
        ({"id2label": {"0": "irrelevant", "1": "relevant", "2": "perfect"}}, "it is no reranker"),
    ],
)
def test_labels_that_do_not_tell_of_relevance_are_named(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    config = {name: value for name, value in (CLASSIFIER | changes).items() if value is not None}
    assert named in refusal(folder(tmp_path, config, "model.safetensors"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_labels": 2}, "num_labels"),  # transformers believes this one, and we would read the first of two
        ({"num_labels": 1, "id2label": {"0": "irrelevant", "1": "relevant"}}, "num_labels"),
        ({"num_labels": "one"}, "num_labels"),
        ({"problem_type": "single_label_classification"}, "problem_type"),
        ({"id2label": {"0": "irrelevant", "1": "relevant"}, "problem_type": "regression"}, "problem_type"),
        (
            {"id2label": {"0": "irrelevant", "1": "relevant"}, "problem_type": "multi_label_classification"},
            "problem_type",
        ),
        ({"position_embedding_type": "alibi"}, "position_embedding_type"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type"),
        ({"architectures": ["BertModel"], "position_embedding_type": "alibi"}, "position_embedding_type"),
        (
            {"architectures": ["NomicBertForSequenceClassification"], "model_type": "nomic_bert", "n_embd": 768},
            "n_embd",
        ),
    ],
)
def test_declarations_that_would_be_computed_otherwise_are_refused(
    tmp_path: Path, changes: dict[str, object], key: str
) -> None:
    (tmp_path / "modules.json").write_text("[]")
    line = refusal(folder(tmp_path, CLASSIFIER | changes, "model.safetensors"))
    assert "config.json" in line
    assert key in line


@pytest.mark.parametrize(
    "changes",
    [
        {"position_embedding_type": "absolute"},
        {"num_labels": 1, "problem_type": "regression"},
        {"architectures": ["GteForSequenceClassification"], "position_embedding_type": "rope"},
        {"id2label": {"0": "not relevant", "1": "relevant"}, "problem_type": "single_label_classification"},
    ],
)
def test_declarations_that_are_computed_so_are_accepted(tmp_path: Path, changes: dict[str, object]) -> None:
    read_checkpoint(folder(tmp_path, CLASSIFIER | changes, "model.safetensors"))


@pytest.mark.parametrize(
    ("config", "near"),
    [
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, ["BertForSequenceClassification", "BertModel"]),
        ({"architectures": ["DebertaV3ForSequenceClassification"]}, ["DebertaV2ForSequenceClassification"]),
        ({"architectures": ["OurReranker"], "model_type": "xlm-roberta"}, ["XLMRobertaForSequenceClassification"]),
        (
            {"architectures": ["XLMRobertaForTokenClassification"], "model_type": "xlm-roberta"},
            ["XLMRobertaForSequenceClassification", "XLMRobertaModel"],
        ),
        ({"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}, []),
    ],
)
def test_an_unknown_architecture_is_told_what_comes_nearest(
    tmp_path: Path, config: dict[str, object], near: list[str]
) -> None:
    line = refusal(folder(tmp_path, config, "model.safetensors"))
    found = re.search(r"near it are (.*?);", line)
    named = found[1].split(", ") if found else []
    assert set(near) <= set(named)
    assert len(named) <= 3
    assert bool(named) == bool(near)
    assert "docs/models.md" in line


def test_no_architecture_at_all(tmp_path: Path) -> None:
    assert "config.json declares no architecture" in refusal(folder(tmp_path, {}, "model.safetensors"))


def test_code_of_a_repository_is_not_run(tmp_path: Path) -> None:
    config = {"architectures": ["OwnForSequenceClassification"], "auto_map": {"AutoConfig": "own.OwnConfig"}}
    line = refusal(folder(tmp_path, config, "model.safetensors"))
    assert "OwnForSequenceClassification exists only as code in the model's repository" in line


def test_a_class_that_only_the_repositorys_code_makes_is_not_taken_for_one_of_transformers(tmp_path: Path) -> None:
    """Without a model type transformers asks for that code, and advises to trust it."""
    config = {name: value for name, value in CLASSIFIER.items() if name != "model_type"}
    line = refusal(folder(tmp_path, config | {"auto_map": {"AutoConfig": "own.OwnConfig"}}, "model.safetensors"))
    assert "BertForSequenceClassification exists only as code in the model's repository" in line


@pytest.mark.parametrize(
    ("config", "instead"),
    [
        (
            {"architectures": ["JinaBertForSequenceClassification"], "auto_map": {}},
            "jina-reranker-v2-base-multilingual",
        ),
        ({"architectures": ["LayerWiseMiniCPMForCausalLM"], "auto_map": {"AutoConfig": "a.B"}}, "bge-reranker-v2-m3"),
        ({"architectures": ["CostWiseGemmaForCausalLM"]}, "bge-reranker-v2-gemma"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "mxbai-rerank-base-v2"),
        ({"architectures": ["Qwen3VLForConditionalGeneration"]}, "Qwen3-Reranker-0.6B"),
        (
            {"architectures": ["MistralForCausalLM"], "_name_or_path": "castorini/rank_zephyr_7b_v1_full"},
            "Qwen3-Reranker-0.6B",
        ),
    ],
)
def test_a_model_that_is_known_and_not_served_has_another_in_its_place(
    tmp_path: Path, config: dict[str, object], instead: str
) -> None:
    assert re.search(rf": use .*{instead}", refusal(folder(tmp_path, config, "model.safetensors")))


def test_what_is_refused_is_not_served_and_what_is_offered_is() -> None:
    models = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    served = models.partition("## Which models work")[2].partition("Refused, each")[0]
    for known in REFUSALS:
        assert not {name for kind in KINDS for name in kind.architectures} & set(known.architectures)
        for model in known.instead.split(" or "):
            assert model.partition("/")[2] in served


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
    assert "lacks 1 of the 2 files of its weights" in load_refusal(path)


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


def test_every_architecture_that_is_served_is_documented() -> None:
    models = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    assert [name for kind in KINDS for name in kind.architectures if f"`{name}`" not in models] == []
