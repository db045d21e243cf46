"""What the libraries say of weights that cannot be loaded is a line of ours, without advice that is refused here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reranker_serve.backends.torch.weights import load_weights
from reranker_serve.checkpoint import read_folder
from reranker_serve.errors import ModelError
from reranker_serve.readouts import ClassifierReadout
from tests.checkpoints import save_cross_encoder


def refusal(folder: Path, **config: object) -> str:
    path = folder / "config.json"
    changed = json.loads(path.read_text()) | config
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    with pytest.raises(ModelError) as caught:
        load_weights(read_folder(folder), ClassifierReadout(), torch.float32, "cpu")
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return save_cross_encoder("bert", tmp_path / "bert")


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_quantized_weights_are_named(bert: Path, method: str) -> None:
    line = refusal(bert, quantization_config={"quant_method": method, "bits": 4})
    assert f"{bert / 'config.json'}: quantization_config ({method})" in line
    assert "pip" not in line
    assert "use the model that they were made from" in line


def test_quantized_text_weights_are_named(bert: Path) -> None:
    assert "quantization_config" in refusal(bert, text_config={"quantization_config": {"bits": 4}})


def test_no_switch_is_named_that_is_not_there(bert: Path) -> None:
    """As for jina-reranker-v2, whose code is in its repository."""
    (bert / "modeling.py").write_text("class Model: ...\n")
    code = {"AutoConfig": "modeling.Model", "AutoModelForSequenceClassification": "modeling.Model"}
    line = refusal(bert, auto_map=code, model_type=None)
    assert "trust_remote_code" not in line
    assert "inspect" not in line
    assert "code" in line
    assert str(bert) in line


@pytest.mark.parametrize(
    ("reason", "end"),
    [("endless " * 200, "endless …"), ("a sentence of words " * 10 + "ends. " + "more " * 100, "ends.")],
)
def test_a_long_reason_ends_with_a_word_or_a_sentence(bert: Path, reason: str, end: str) -> None:
    line = refusal(bert, hidden_act=reason)
    assert len(line) < 450
    assert line.endswith(end)
