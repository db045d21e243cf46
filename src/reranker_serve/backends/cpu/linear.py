"""Linear layers of an encoder on a CPU: weights laid out for the processor once, not at every call.

`pack_linear_layers` replaces the layers of a loaded model behind the ordinary interface
(`layer(x)`), so no model code changes. Layers that read the same input (query, key and value)
become one product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

# Names of layers that are called one after the other with the very same input.
_SHARING = (
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
)
# Rows for which the layout of weights is chosen: a batch of a few thousand tokens.
_TYPICAL_ROWS = 2048

Product = Callable[[Tensor], Tensor]


class MakeProduct(Protocol):
    """(weight [out, in], bias [out], greatest magnitudes of the input's channels [in]) -> product with [rows, in]."""

    def __call__(self, weight: Tensor, bias: Tensor | None, peaks: Tensor | None = None) -> Product: ...


class PackedLinear(nn.Module):
    """x [..., in] -> [..., out], by a product that holds the weights."""

    def __init__(self, product: Product, out_features: int) -> None:
        super().__init__()
        self._product = product
        self._out = out_features

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], self._out)


class SharedInput:
    """One product for layers that are given the same input in a row: computed for the first, kept for the others."""

    def __init__(self, product: Product, widths: Sequence[int]) -> None:
        self._product = product
        self._widths = list(widths)
        self._input: Tensor | None = None
        self._parts: list[Tensor | None] = []

    def part(self, x: Tensor, index: int) -> Tensor:
        if self._input is not x:
            out = self._product(x.reshape(-1, x.shape[-1]))
            self._parts = [part.view(*x.shape[:-1], -1) for part in torch.split(out, self._widths, dim=-1)]
            self._input = x
        part = self._parts[index]
        assert part is not None
        self._parts[index] = None
        if not any(rest is not None for rest in self._parts):
            self._input = None
        return part


class SharedInputLinear(nn.Module):
    """One of the layers of a `SharedInput`."""

    def __init__(self, shared: SharedInput, index: int) -> None:
        super().__init__()
        self._shared = shared
        self._index = index

    def forward(self, x: Tensor) -> Tensor:
        return self._shared.part(x, self._index)


def packed_product(weight: Tensor, bias: Tensor | None, peaks: Tensor | None = None) -> Product:
    """oneDNN's product with `weight` [out, in], bfloat16 or float32, in the layout its kernel wants; `peaks` do not
    matter to it.

    In float32 torch's own is MKL's, which lays weights out at every call, and on AMD's processors leaves AVX512 alone.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TYPICAL_ROWS)

    def product(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return out

    return product


def row_count(rows: int) -> int:
    """The next of few numbers of rows: multiples of 16 up to 256, then 16 an octave.

    oneDNN keeps what it prepared for a number of rows for good, 0.2 to 0.4 MB for each shape of weights: batches
    of every length would take gigabytes. Preparing costs about a millisecond, too, more than so few rows.
    """
    step = max(16, 1 << max(0, (rows - 1).bit_length() - 5))
    return rows + -rows % step


def few_sizes(product: Product) -> Product:
    """`product`, given few different numbers of rows (`row_count`), filled with zeros."""

    def bounded(x: Tensor) -> Tensor:
        rows = len(x)
        missing = row_count(rows) - rows
        return product(nn.functional.pad(x, (0, 0, 0, missing)))[:rows] if missing else product(x)

    return bounded


def works(make: MakeProduct, dtype: torch.dtype) -> bool:
    """Whether this build of torch has the kernels of a product, and they compute what they should."""
    random = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=random).to(dtype) for shape in ((64, 32), (64,), (8, 32)))
    try:
        got = make(weight, bias)(x).float()
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    expected = nn.functional.linear(x.float(), weight.float(), bias.float())
    return bool((got - expected).abs().max() < 0.02 * expected.abs().max())


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that `pack_linear_layers` replaces, by their names in `model`."""
    return {f"{prefix}.{name}": layer for prefix, _, layers in _parents(model) for name, layer in layers.items()}


def keep(weight: Tensor) -> None:
    """Leave a weight to whoever else has it."""


def pack_linear_layers(
    model: nn.Module,
    make: MakeProduct,
    peaks: Mapping[str, Tensor] | None = None,
    release: Callable[[Tensor], None] = keep,
) -> None:
    """Replace the linear layers below `model`, one after the other, so that memory never holds both kinds.

    `peaks`: by layer name, the greatest magnitude of each channel of its input. `release` is given each weight that is
    not needed any more.
    """
    for prefix, parent, layers in _parents(model):
        for names in _groups(layers):
            group = [layers.pop(name) for name in names]
            _replace(parent, names, group, make, (peaks or {}).get(f"{prefix}.{names[0]}"))
            for layer in group:
                release(layer.weight.detach())


def _parents(model: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, nn.Linear]]]:
    """Modules that hold linear layers, but for poolers, which see one row a sequence only."""
    for prefix, parent in list(model.named_modules()):
        if not prefix.endswith("pooler"):
            yield prefix, parent, {name: child for name, child in parent.named_children() if type(child) is nn.Linear}


def _groups(layers: Mapping[str, nn.Linear]) -> Iterator[tuple[str, ...]]:
    left = dict(layers)
    for names in _SHARING:
        if all(name in left for name in names):
            yield names
            for name in names:
                del left[name]
    for name in left:
        yield (name,)


def _replace(
    parent: nn.Module, names: Sequence[str], layers: Sequence[nn.Linear], make: MakeProduct, peaks: Tensor | None
) -> None:
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [layer.bias for layer in layers if layer.bias is not None]
    bias = torch.cat([one.detach() for one in biases]) if len(biases) == len(layers) else None
    assert bias is not None or not biases, "of layers that share an input some have a bias and some not"
    product = few_sizes(make(weight, bias, peaks))
    if len(layers) == 1:
        setattr(parent, names[0], PackedLinear(product, layers[0].out_features))
        return
    shared = SharedInput(product, [layer.out_features for layer in layers])
    for index, name in enumerate(names):
        setattr(parent, name, SharedInputLinear(shared, index))
