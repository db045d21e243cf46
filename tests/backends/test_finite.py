"""A model that gives NaN or infinity is computed in a wider precision, or not served."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reranker_serve.app import create_app
from reranker_serve.backends.cpu import products
from reranker_serve.backends.cpu.int8 import int8_product
from reranker_serve.backends.cpu.linear import Product
from reranker_serve.backends.device import Place
from reranker_serve.backends.torch import load as torch_load
from reranker_serve.backends.torch.load import load_finite
from reranker_serve.backends.torch.weights import load_weights
from reranker_serve.checkpoint import read_folder
from reranker_serve.errors import ModelError
from reranker_serve.readouts import ClassifierReadout, NextTokenReadout, Readout
from reranker_serve.types import EncodedItem
from tests.checkpoints import load_scorer, save_cross_encoder, save_language_model
from tests.conftest import fake_settings
from tests.machine import needs_bfloat16, needs_int8

ITEMS = [EncodedItem(np.arange(5, 5 + length, dtype=np.int32), length) for length in (4, 20, 9)]


def change(folder: Path, *ends: str, by: Callable[[Tensor], Tensor]) -> Path:
    """Rewrite the tensors of a checkpoint whose names end so."""
    weights = load_file(folder / "model.safetensors")
    changed = {name: by(tensor) for name, tensor in weights.items() if name.endswith(ends)}
    assert changed
    save_file(weights | changed, folder / "model.safetensors", {"format": "pt"})
    return folder


def too_large_for_float16(folder: Path) -> Path:
    """Weights that fit, and activations in the middle of the model that do not, as in Gemma and Qwen2."""
    return change(folder, "1.output.dense.weight", "1.mlp.down_proj.weight", by=lambda weight: weight * 1e5)


def too_large_for_bfloat16(folder: Path) -> Path:
    """The greatest numbers of float32 are rounded to infinity in bfloat16."""
    return change(folder, "classifier.bias", by=lambda bias: torch.full_like(bias, 3.4e38))


def too_large_for_float32(folder: Path) -> Path:
    return change(folder, "layer.1.output.dense.weight", by=lambda weight: weight * 1e38)


CHECKPOINTS: list[tuple[Callable[[Path], Path], Readout]] = [
    (lambda folder: save_cross_encoder("bert", folder), ClassifierReadout()),
    (lambda folder: save_language_model("mxbai", folder), NextTokenReadout((7, 9))),
    (lambda folder: save_language_model("gemma", folder), NextTokenReadout((7,))),
]


@pytest.mark.parametrize(("save", "readout"), CHECKPOINTS, ids=["bert", "qwen2", "gemma"])
def test_the_next_precision_is_taken_where_numbers_get_too_large(
    save: Callable[[Path], Path], readout: Readout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = too_large_for_float16(save(tmp_path))
    (backend,) = load_finite(read_folder(folder), readout, [Place("cpu")], ("float16", "bfloat16", "float32"))
    assert backend.dtype == "bfloat16"
    assert backend.precision_note == "in float16 the model gave numbers that are not finite"
    assert np.isfinite(backend.forward(ITEMS)).all()
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.getMessage() == "computing in bfloat16: in float16 the model gave numbers that are not finite"


def test_a_model_that_fits_is_loaded_in_the_first_precision(tmp_path: Path) -> None:
    (backend,) = load_finite(
        read_folder(save_cross_encoder("bert", tmp_path)), ClassifierReadout(), [Place("cpu")], ("float16", "float32")
    )
    assert (backend.dtype, backend.precision_note) == ("float16", None)


@needs_bfloat16
async def test_the_log_and_info_tell_what_was_taken_and_why(tmp_path: Path) -> None:
    folder = too_large_for_bfloat16(save_cross_encoder("bert", tmp_path))
    scorer = load_scorer(folder, use_fp16="true", device="cpu")
    app = create_app(fake_settings(), scorer)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        facts = (await client.get("/info")).json()
    assert facts["dtype"] == "float32"
    assert facts["precision_note"] == "in bfloat16 the model gave numbers that are not finite"


@pytest.mark.parametrize("name", ["bert", "deberta-v2"])
@pytest.mark.parametrize("half", ["true", "false"])
def test_a_model_that_is_finite_in_no_precision_is_refused(name: str, half: str, tmp_path: Path) -> None:
    folder = too_large_for_float32(save_cross_encoder(name, tmp_path))
    with pytest.raises(ModelError, match=r"are not finite, in float32 either.*download the model again") as caught:
        load_scorer(folder, use_fp16=half, device="cpu")
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = change(
        save_cross_encoder("xlm-roberta", tmp_path), "dense.bias", by=lambda bias: torch.full_like(bias, torch.nan)
    )
    with pytest.raises(ModelError, match="are not finite"):
        load_scorer(folder)


def overflowing(weight: Tensor, bias: Tensor | None, peaks: Tensor | None = None) -> Product:
    """A kernel whose sums overflow, as those of 8-bit integers do on processors that lack instructions for them."""
    product = int8_product(weight, bias, peaks)
    return lambda x: product(x) * torch.inf


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many parts of earlier models were in memory each time weights were loaded."""
    parts: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def watched(*arguments: Any) -> Any:
        alive.append(sum(part() is not None for part in parts))
        model = load_weights(*arguments)
        parts.extend(weakref.ref(part) for part in (model, *model.parameters()))
        return model

    monkeypatch.setattr(torch_load, "load_weights", watched)
    gc.disable()  # by chance it would hide what is held
    yield alive
    gc.enable()


def test_a_model_is_gone_before_it_is_loaded_again(loaded: list[int], tmp_path: Path) -> None:
    folder = too_large_for_float16(save_cross_encoder("bert", tmp_path))
    load_finite(read_folder(folder), ClassifierReadout(), [Place("cpu")], ("float16", "float32"))
    assert loaded == [0, 0]


@needs_int8
def test_what_computes_in_the_end_is_tried_too(
    loaded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "int8_product", overflowing)
    folder = save_cross_encoder("bert", tmp_path)
    with pytest.raises(ModelError, match=r"are not finite.*or leave RERANKER_QUANTIZATION unset"):
        load_finite(read_folder(folder), ClassifierReadout(), [Place("cpu")], ("bfloat16", "float32"), "int8")
    assert loaded == [0, 0]
