"""`verify` passes on the right weights and fails loudly on wrong ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reranker_serve.cli import main
from reranker_serve.demo import MODEL_NAME, demo_folder
from reranker_serve.tools.verify import read_pairs
from tests.checkpoints import save_cross_encoder

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flags become variables of this process: take them back, and see no .env."""
    for name in ("MODEL_PATH", "MODEL_NAME", "USE_FP16"):
        monkeypatch.setenv(f"RERANKER_{name}", "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def wrong_demo(tmp_path: Path) -> Path:
    """The demo model with one layer's weights turned around."""
    folder = tmp_path / "wrong"
    shutil.copytree(demo_folder(), folder)
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.3.output.dense.weight"
    weights[name] = torch.flip(weights[name], dims=[0]).contiguous()
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("half", ["true", "false"])
def test_the_demo_model_passes(half: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--demo", "--use-fp16", half]) == 0
    printed = capsys.readouterr().out
    assert "all 8 scores are the published ones" in printed
    assert "WRONG" not in printed


@pytest.mark.parametrize("half", ["true", "false"])
def test_wrong_weights_fail(half: str, wrong_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", "--model-path", str(wrong_demo), "--published-as", MODEL_NAME, "--use-fp16", half]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "FAILED: " in printed
    assert printed.count("WRONG") >= 4


def test_a_model_without_published_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_cross_encoder("bert", tmp_path / "mine")
    assert main(["verify", "--model-path", str(tmp_path / "mine")]) == 1
    error = capsys.readouterr().err
    assert "no published scores of mine are known" in error
    assert "Qwen/Qwen3-Reranker-0.6B" in error
    assert error.count("\n") == 1


def test_every_pair_has_a_source_a_scale_and_a_tolerance() -> None:
    pairs = read_pairs()
    assert {pair.scale for pair in pairs} == {"raw", "relevance"}
    for pair in pairs:
        assert pair.source
        assert pair.query
        assert 0 < pair.tolerance <= 0.1
        assert pair.scale == "raw" or 0 <= pair.score <= 1
    keys = [(pair.model, pair.query, pair.document, pair.scale) for pair in pairs]
    assert len(keys) == len(set(keys))
