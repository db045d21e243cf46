"""`inspect` tells what a model is without loading it, in the words that a start would use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.checkpoints import save_cross_encoder, save_language_model
from tests.server.hub import REVISION, hub
from tests.server.processes import CLI, environment


def inspect(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "inspect", *arguments], env=environment(), capture_output=True, text=True, timeout=60, check=False
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


def test_a_model_that_the_hub_has_not_is_one_line(tmp_path: Path) -> None:
    with hub("somebody/reranker", tmp_path) as (endpoint, _):
        names = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
        command = [*CLI, "inspect", "somebody/else"]
        shown = subprocess.run(
            command, cwd=tmp_path, env=environment() | names, capture_output=True, text=True, timeout=60, check=False
        )
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.strip() == "error: the hub has no model somebody/else: check RERANKER_MODEL_NAME"
