"""8-bit linear layers: how far from exact, and that a sequence's company does not matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reranker_serve.backends.cpu.int8 import channel_peaks, int8_product, quantize_rows
from reranker_serve.backends.cpu.products import check_quantization
from reranker_serve.backends.device import Machine
from reranker_serve.backends.torch import backend as torch_backend
from reranker_serve.errors import ModelError
from reranker_serve.readouts import ClassifierReadout, PooledReadout
from reranker_serve.types import EncodedItem
from tests.checkpoints import load_scorer, save_cross_encoder
from tests.machine import needs_int8


@pytest.mark.parametrize(("rows", "width"), [(1, 8), (1, 770), (3, 7), (400, 3000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantized_value_is_at_most_half_a_step_off(rows: int, width: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    x = (torch.randn(rows, width, generator=random) * torch.logspace(-3, 4, rows)[:, None]).to(dtype)
    quantized, scales = quantize_rows(x)
    assert quantized.dtype is torch.uint8
    assert quantized.shape == x.shape
    assert scales.dtype is dtype
    off = (scales.double() * (quantized.double() - 127.5) - x.double()).abs()
    assert bool((off <= 0.501 * scales.double()).all())
    # no step is wider than the row needs, but for the rounding of scales
    assert bool((scales.double()[:, 0] <= 1.01 * x.double().abs().amax(1) / 127.5).all())


def test_a_row_of_zeros_stays_zero() -> None:
    weight = torch.ones(16, 8)
    out = int8_product(weight, torch.arange(16.0))(torch.zeros(3, 8))
    assert torch.equal(out, torch.arange(16.0).expand(3, 16))


@needs_int8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_any_size_keep_their_precision(bias: bool, dtype: torch.dtype) -> None:
    """A row 10,000 times smaller than its neighbour: one scale for both would leave nothing of it."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 96, bias=bias)
    x = torch.randn(9, 256)
    x[4] *= 1e-4
    x[5] *= 100
    with torch.inference_mode():
        product = int8_product(layer.weight.to(dtype), layer.bias.to(dtype) if bias else None)
        off = (product(x.to(dtype)).float() - layer(x)).norm(dim=1)
        assert bool((off < 0.02 * (layer(x).norm(dim=1))).all())


@needs_int8
def test_channels_that_are_always_large_do_not_drown_the_others() -> None:
    """As in trained models: two channels of 64 are 100 times larger than the rest."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 48)
    model = torch.nn.Sequential(torch.nn.Identity(), layer)
    x, other = torch.randn(2, 200, 64)
    size = torch.ones(64)
    size[[7, 40]] = 100
    with torch.inference_mode():
        layer.weight /= size
        peaks = channel_peaks({"1": layer}, lambda: model(other * size))["1"]
        assert torch.equal(peaks, (other * size).abs().amax(0))
        off = {
            name: (int8_product(layer.weight, layer.bias, known)(x * size) - layer(x * size)).norm()
            for name, known in (("plain", None), ("smoothed", peaks))
        }
    assert off["smoothed"] < 0.2 * off["plain"]


@needs_int8
@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert"])
def test_a_loaded_model_scores_a_sequence_alike_in_any_company(name: str, tmp_path: Path) -> None:
    save_cross_encoder(name, tmp_path)
    exact, int8 = load_scorer(tmp_path), load_scorer(tmp_path, quantization="int8")
    assert int8.backend.dtype == "int8"
    random = np.random.default_rng(0)
    items = [EncodedItem(random.integers(5, 60, length, dtype=np.int32), 1) for length in (9, 30, 2, 17)]
    together, expected = int8.backend.forward(items), exact.backend.forward(items)
    assert not np.array_equal(together, expected)
    np.testing.assert_allclose(together, expected, atol=0.1 * np.ptp(expected), rtol=0)
    for item, row in zip(items, together, strict=True):
        np.testing.assert_allclose(int8.backend.forward([item])[0], row, atol=1e-5 * np.ptp(expected), rtol=0)


def test_where_it_does_not_pay_it_is_refused() -> None:
    readout, gpu, cpu = ClassifierReadout(1), Machine(1, False, True, True), Machine(0, False, True, True)
    check_quantization("none", "cuda:0", torch.float16, readout, gpu)
    with pytest.raises(ModelError, match="RERANKER_QUANTIZATION=int8 is for a CPU, not for cuda:0"):
        check_quantization("int8", "cuda:0", torch.float16, readout, gpu)
    with pytest.raises(ModelError, match="int8 costs embedding models too much of their ranking"):
        check_quantization("int8", "cpu", torch.bfloat16, PooledReadout("mean", 8), cpu)
    with pytest.raises(ModelError, match=r"needs a processor that multiplies 8-bit integers \(VNNI or AMX\): leave it"):
        check_quantization("int8", "cpu", torch.float32, readout, Machine(0, False, False, False))


@needs_int8
def test_the_peaks_of_channels_are_those_of_texts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: set[int] = set()

    def watched(layers: Mapping[str, nn.Linear], run: Callable[[], object]) -> dict[str, torch.Tensor]:
        first = next(iter(layers.values()))
        handle = first.register_forward_pre_hook(lambda _, inputs: rows.add(inputs[0].shape[-2]))
        try:
            return channel_peaks(layers, run)
        finally:
            handle.remove()

    monkeypatch.setattr(torch_backend, "channel_peaks", watched)
    scorer = load_scorer(save_cross_encoder("bert", tmp_path), quantization="int8")
    (texts,) = rows
    assert texts % 16, "else a row is not filled, and this test shows nothing"
    assert scorer.backend.dtype == "int8"
