"""Linear layers laid out for the processor compute what the ordinary ones do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from reranker_serve.backends.cpu.int8 import int8_product
from reranker_serve.backends.cpu.linear import MakeProduct, few_sizes, pack_linear_layers, packed_product, works
from reranker_serve.backends.cpu.products import choose_product
from reranker_serve.backends.torch import attention_cpu
from reranker_serve.types import EncodedItem
from tests.checkpoints import load_scorer, save_cross_encoder
from tests.machine import needs_bfloat16, needs_int8
from tests.memory import needs_statm, resident_bytes


@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 48, 96), (7, 96, 48), (300, 48, 48), (1030, 64, 128)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.02, marks=needs_bfloat16)]
)
def test_a_product_is_the_layers(
    rows: int, inner: int, outer: int, bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inner, outer, bias=bias).to(dtype)
    x = torch.randn(rows, inner).to(dtype)
    with torch.inference_mode():
        got = packed_product(layer.weight.detach(), layer.bias.detach() if bias else None)(x)
        torch.testing.assert_close(got, layer(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
def test_layers_on_a_cpu_are_laid_out_in_either_precision(dtype: torch.dtype) -> None:
    assert choose_product("cpu", dtype, "none") is packed_product
    assert choose_product("cuda:0", dtype, "none") is None


def test_products_meet_few_numbers_of_rows() -> None:
    met = []

    def product(x: torch.Tensor) -> torch.Tensor:
        met.append(len(x))
        return 2 * x

    bounded = few_sizes(product)
    for rows in range(1, 2049):
        x = torch.arange(3.0 * rows).reshape(rows, 3)
        assert torch.equal(bounded(x), 2 * x)
        assert rows <= met[-1] < max(rows + 16, 1.0625 * rows)
    assert len(set(met)) == 64


@needs_statm
@needs_bfloat16
@pytest.mark.parametrize("make", [packed_product, pytest.param(int8_product, marks=needs_int8)])
def test_memory_does_not_grow_with_the_lengths_of_batches(make: MakeProduct) -> None:
    layer = nn.Sequential(nn.Linear(64, 128).bfloat16())
    with torch.inference_mode():
        pack_linear_layers(layer, make)
        before = resident_bytes()
        for rows in range(100, 900):
            layer(torch.ones(rows, 64, dtype=torch.bfloat16))
    assert resident_bytes() - before < 50e6


class Block(nn.Module):
    """Three layers that share an input, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(16, 32), nn.Linear(16, 8), nn.Linear(16, 8)
        self.o_proj = nn.Linear(32, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        out: torch.Tensor = self.o_proj(q + torch.cat([k, v, k, v], dim=-1))
        return out


def test_layers_that_share_an_input_become_one_product() -> None:
    torch.manual_seed(0)
    block = Block()
    inputs = [torch.randn(1, 9, 16) for _ in range(3)]
    weights = [layer.weight.data_ptr() for layer in (block.q_proj, block.k_proj, block.v_proj, block.o_proj)]
    released: list[int] = []
    with torch.inference_mode():
        expected = [block(x) for x in inputs]
        pack_linear_layers(block, packed_product, release=lambda weight: released.append(weight.data_ptr()))
        assert released == weights  # which lie in files, and are taken out of memory
        assert not any(isinstance(module, nn.Linear) for module in block.modules())
        for x, wanted in zip(inputs, expected, strict=True):
            torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=0)
            torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=0)


def test_kernels_that_are_missing_or_wrong_are_noticed() -> None:
    def missing(weight: torch.Tensor, bias: torch.Tensor | None) -> object:
        raise NotImplementedError

    assert works(packed_product, torch.float32)
    assert not works(missing, torch.float32)  # type: ignore[arg-type]
    assert not works(lambda weight, bias: lambda x: x @ weight.T, torch.float32)


@needs_bfloat16
def test_a_loaded_model_gives_the_same_scores_batch_after_batch(tmp_path: Path) -> None:
    scorer = load_scorer(save_cross_encoder("bert", tmp_path), use_fp16="true")
    exact = load_scorer(tmp_path)
    random = np.random.default_rng(0)
    batches = [[EncodedItem(random.integers(5, 60, 9, dtype=np.int32), 4)] for _ in range(3)]
    first = [scorer.backend.forward(batch) for batch in batches]
    assert all(np.array_equal(scorer.backend.forward(batch), row) for batch, row in zip(batches, first, strict=True))
    for batch, row in zip(batches, first, strict=True):
        np.testing.assert_allclose(row, exact.backend.forward(batch), atol=0.1, rtol=0)


class Products(TorchDispatchMode):
    """Notes the shapes of all products that oneDNN is given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[str, *tuple[int, ...]]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in {"aten::bmm", "mkldnn::_linear_pointwise"}:
            self.shapes.add((func.name(), *args[0].shape, *args[1].shape))
        return func(*args, **(kwargs or {}))


@needs_bfloat16
def test_a_model_meets_few_shapes_whatever_the_lengths_are(tmp_path: Path) -> None:
    """For each oneDNN keeps a kernel: else memory grows for as long as lengths are new."""
    scorer = load_scorer(save_cross_encoder("bert", tmp_path), use_fp16="true")
    random = np.random.default_rng(0)
    with Products() as products:
        for _ in range(200):
            lengths = random.integers(3, 48, random.integers(1, 40))
            scorer.backend.forward([EncodedItem(random.integers(5, 60, n, dtype=np.int32), int(n)) for n in lengths])
    attention = {shape for shape in products.shapes if shape[0] == "aten::bmm"}
    assert len(attention) <= 2 * 48 / 16 * len((1, *attention_cpu._TOGETHER))
    assert {shape[1] % 16 for shape in products.shapes - attention} == {0}
