"""What sentence-transformers wrote after the transformer is read as it computes it, and refused in one line if not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import LayerNorm
from torch import nn

from reranker_serve.backends.torch.layers import load_layers
from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.modules import read_layers, read_modules

WIDTH = 8


def random(*modules: Any) -> list[Any]:
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.normal_()
    return list(modules)


def save(folder: Path, modules: list[Any]) -> Checkpoint:
    rows = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, module in enumerate(modules, 1):
        path = f"{index}_{type(module).__name__}"
        (folder / path).mkdir(parents=True)
        module.save(str(folder / path))
        rows.append({"idx": index, "name": str(index), "path": path, "type": f"pylate.{type(module).__name__}"})
    (folder / "modules.json").write_text(json.dumps(rows))
    return Checkpoint(folder, {})


def head() -> list[Any]:
    torch.manual_seed(0)
    return random(
        Dense(WIDTH, WIDTH, bias=False, activation_function=nn.GELU()),
        LayerNorm(WIDTH),
        Dense(WIDTH, 1, activation_function=nn.Identity(), module_output_name="scores"),
    )


@pytest.mark.parametrize("activation", [nn.Identity, nn.GELU, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Tanh])
@pytest.mark.parametrize("out", [WIDTH, 5])
@pytest.mark.parametrize("residual", [False, True])
def test_a_dense_layer_computes_the_same(tmp_path: Path, activation: Any, out: int, residual: bool) -> None:
    torch.manual_seed(1)
    modules = random(Dense(WIDTH, out, activation_function=activation(), use_residual=residual), LayerNorm(out))
    checkpoint = save(tmp_path, modules)
    layers = load_layers(
        tmp_path,
        read_layers(checkpoint, read_modules(checkpoint)[1:], WIDTH, "sentence_embedding"),
        torch.float32,
        "cpu",
    )
    x = torch.randn(7, WIDTH)
    features = {"sentence_embedding": x}
    for module in modules:
        features = module(features)
    assert torch.equal(layers(x), features["sentence_embedding"])


def test_a_projection_reads_every_token(tmp_path: Path) -> None:
    modules = random(
        Dense(WIDTH, 4, bias=False, activation_function=nn.Identity(), module_input_name="token_embeddings")
    )
    checkpoint = save(tmp_path, modules)
    layers = read_layers(checkpoint, read_modules(checkpoint)[1:], WIDTH, "token_embeddings")
    x = torch.randn(2, 7, WIDTH)
    expected = modules[0]({"token_embeddings": x})["token_embeddings"]
    assert torch.equal(load_layers(tmp_path, layers, torch.float32, "cpu")(x), expected)


def change(path: str, **values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(config | values))

    return apply


def pickle(folder: Path) -> None:
    (folder / "1_Dense/model.safetensors").rename(folder / "1_Dense/pytorch_model.bin")


def drop_tensor(folder: Path) -> None:
    path = folder / "2_LayerNorm/model.safetensors"
    save_file({"norm.weight": load_file(path)["norm.weight"]}, path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (change("1_Dense/config.json", in_features=9), r"1_Dense/config\.json: in_features is 9, .* gives 8 numbers"),
        (change("2_LayerNorm/config.json", dimension=9), r"2_LayerNorm/config\.json: dimension is 9"),
        (
            change("2_LayerNorm/config.json", dimension="8"),
            r"config\.json: dimension is '8', not a whole number above 0",
        ),
        (
            change("1_Dense/config.json", activation_function="evil.GELU"),
            r"config\.json: activation_function is 'evil\.GELU'",
        ),
        (
            change("1_Dense/config.json", activation_function="torch.nn.GLU"),
            r"activation_function is 'torch\.nn\.GLU'; sup",
        ),
        (
            change("1_Dense/config.json", module_input_name="token_embeddings"),
            r"module_input_name is 'token_embeddings'",
        ),
        (change("1_Dense/config.json", bias=True), r"1_Dense/model\.safetensors has no linear\.bias"),
        (change("3_Dense/config.json", out_features=2), r"3_Dense/model\.safetensors: linear\.weight is \[1, 8\], but"),
        (pickle, r"1_Dense/model\.safetensors is missing: pytorch_model\.bin beside it is pickled"),
        (drop_tensor, r"2_LayerNorm/model\.safetensors has no norm\.bias"),
        (lambda folder: (folder / "1_Dense/model.safetensors").unlink(), r"1_Dense/model\.safetensors is missing"),
        (
            lambda folder: (folder / "1_Dense/model.safetensors").write_bytes(b"x" * 20),
            r"model\.safetensors cannot be read",
        ),
        (lambda folder: (folder / "1_Dense/config.json").unlink(), r"1_Dense/config\.json is missing"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    checkpoint = save(tmp_path, head())
    spoil(tmp_path)
    with pytest.raises(ModelError, match=says) as refused:
        read_layers(checkpoint, read_modules(checkpoint)[1:], WIDTH, "sentence_embedding", "scores")
    assert "\n" not in str(refused.value)
