"""`inspect` tells what a model is without loading it, in the words that a start would use."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.adapters import save_adapter
from tests.checkpoints import save_cross_encoder, save_language_model, save_listwise
from tests.families.test_late_interaction_parity import save_pylate
from tests.server.hub import REVISION, hub
from tests.server.processes import CLI, environment


def inspect(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "inspect", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_cross_encoder_is_told_for_people_and_for_programs(tmp_path: Path) -> None:
    folder = save_cross_encoder("xlm-roberta", tmp_path / "BAAI_bge-reranker-v2-m3")
    shown = inspect(str(folder))
    assert shown.returncode == 0, shown.stderr
    for part in ("XLMRobertaForSequenceClassification", "cross-encoder", "sigmoid(logit)", "apache-2.0", "128 tokens"):
        assert part in shown.stdout
    found = json.loads(inspect(str(folder), "--json").stdout)
    weights = load_file(folder / "model.safetensors")
    parameters = sum(tensor.numel() for tensor in weights.values())
    assert found["parameters"] == parameters
    assert found["memory"]["float32"] == round(parameters * 4 / 1e9, 2)
    assert found["known_as"] == "BAAI/bge-reranker-v2-m3"
    assert (found["prompt"], found["takes_instruction"], found["longest"]) == (None, False, 128)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(found["read"])


def test_a_language_model_has_its_prompt(tmp_path: Path) -> None:
    found = json.loads(inspect(str(save_language_model("qwen3", tmp_path / "m")), "--json").stdout)
    assert (found["prompt"], found["takes_instruction"]) == ("qwen3-reranker", True)
    assert found["family"] == "yes_no"


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "config.json"])
def test_what_would_be_refused_is_the_line_of_a_start(missing: str, tmp_path: Path) -> None:
    folder = save_cross_encoder("bert", tmp_path / "m")
    (folder / missing).unlink()
    shown = inspect(str(folder))
    assert (shown.returncode, shown.stdout) == (1, "")
    started = subprocess.run(
        [*CLI, "serve"],
        env=environment(model_path=str(folder)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    line = shown.stderr.strip().removeprefix("error: ")
    assert line
    assert line in started.stderr + started.stdout


def test_a_model_of_the_hub_is_told_without_its_weights(tmp_path: Path) -> None:
    published = save_cross_encoder("bert", tmp_path / "published")
    with hub("somebody/reranker", published) as (endpoint, _):
        names = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
        command = [*CLI, "inspect", "somebody/reranker", "--json"]
        shown = subprocess.run(
            command, cwd=tmp_path, env=environment() | names, capture_output=True, text=True, timeout=60, check=False
        )
    assert shown.returncode == 0, shown.stderr
    found, there = json.loads(shown.stdout), json.loads(inspect(str(published), "--json").stdout)
    left_out = {"folder", "known_as", "left"}
    assert {name: value for name, value in found.items() if name not in left_out} == {
        name: value for name, value in there.items() if name not in left_out
    }
    assert not (tmp_path / "models").exists(), "downloaded"
    assert found["folder"] == f"somebody/reranker at {REVISION}"
    assert not found["left"], "the notes of the hub's client are no files of the model"


def test_a_model_that_the_hub_has_not_is_one_line(tmp_path: Path) -> None:
    with hub("somebody/reranker", tmp_path) as (endpoint, _):
        names = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
        command = [*CLI, "inspect", "somebody/else"]
        shown = subprocess.run(
            command, cwd=tmp_path, env=environment() | names, capture_output=True, text=True, timeout=60, check=False
        )
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.strip() == "error: the hub has no model somebody/else: check RERANKER_MODEL_NAME"


def test_only_what_is_loaded_is_read_and_counted(tmp_path: Path) -> None:
    folder = save_pylate(tmp_path / "m")
    expected = json.loads(inspect(str(folder), "--json").stdout)
    assert {"1_Dense/config.json", "1_Dense/model.safetensors"} <= set(expected["read"])
    copies = ("consolidated.safetensors", "checkpoint-5/model.safetensors", "checkpoint-5/config.json", "vocab.txt")
    for name in (*copies, "merges.txt", "onnx/config.json", "pytorch_model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / ("model.safetensors" if name.endswith(".safetensors") else "config.json"), folder / name)
    found = json.loads(inspect(str(folder), "--json").stdout)
    assert found["parameters"] == expected["parameters"]
    assert found["read"] == expected["read"]
    assert set(copies) <= set(found["left"])


def test_an_older_file_of_the_transformer_module_is_read(tmp_path: Path) -> None:
    folder = save_pylate(tmp_path / "m")
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    assert "sentence_roberta_config.json" in json.loads(inspect(str(folder), "--json").stdout)["read"]


def test_vocabularies_are_read_where_there_is_no_other_tokenizer(tmp_path: Path) -> None:
    folder = save_cross_encoder("bert", tmp_path / "m")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    assert "vocab.txt" in json.loads(inspect(str(folder), "--json").stdout)["left"]
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "vocab.txt" in json.loads(inspect(str(folder), "--json").stdout)["read"]


def test_an_adapters_files_have_their_own_names_and_merge_into_the_bases_parameters(tmp_path: Path) -> None:
    base = save_cross_encoder("bert", tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, {"bert.encoder.layer.0.attention.self.query": (48, 48)})
    found, whole = (json.loads(inspect(str(folder), "--json").stdout) for folder in (adapter, base))
    assert found["parameters"] == whole["parameters"]
    assert {"adapter_config.json", "adapter_model.safetensors", "model.safetensors"} <= set(found["read"])


def test_parts_of_the_weights_that_are_missing_are_the_line_of_a_start(tmp_path: Path) -> None:
    folder = save_cross_encoder("bert", tmp_path / "m")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert inspect(str(folder)).returncode == 0, "one file goes before several"
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shown = inspect(str(folder))
    assert shown.returncode == 1
    assert "lacks 1 of the 2 files of its weights, model-2.safetensors first: download the model again" in shown.stderr


@pytest.mark.parametrize(
    ("save", "said"), [(save_pylate, "40 tokens of a text"), (save_listwise, "2048 tokens of a document")]
)
def test_what_the_length_counts_is_told(save: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    assert said in inspect(str(save(tmp_path))).stdout


def test_the_configured_models_name_and_revision_say_nothing_of_another_folder(tmp_path: Path) -> None:
    folder = save_language_model("qwen3", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": ""}))
    configured = {"model_name": "Qwen/Qwen3-Reranker-0.6B", "model_revision": "v1"}
    shown = inspect(str(folder), **configured)
    assert "nothing in its files tells which prompt" in shown.stderr
    assert "RERANKER_MODEL_REVISION" not in shown.stderr
