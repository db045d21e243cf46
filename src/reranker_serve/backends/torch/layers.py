"""The layers that a checkpoint has after its transformer, as torch modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import normalize

from reranker_serve.layers import Activation, DenseLayer, Layer, NormLayer
from reranker_serve.readouts import VectorsReadout

_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Dense(nn.Module):
    """x [..., inputs] -> [..., outputs]; its parameters are named as in a file where the layer is `linear`."""

    def __init__(self, layer: DenseLayer) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.inputs, layer.outputs, layer.bias)
        self.residual = nn.Linear(layer.inputs, layer.outputs, False) if "residual.weight" in layer.shapes else None
        self._activation = _ACTIVATIONS[layer.activation]()
        self._adds = layer.residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._activation(self.linear(x))
        if not self._adds:
            return out
        return out + (x if self.residual is None else self.residual(x))


class Norm(nn.Module):
    """x [..., inputs] -> the same, normed; its parameters are named as in the file."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


def vector_reader(readout: VectorsReadout, layers: nn.Module) -> Callable[[Tensor], Tensor]:
    """From rows of hidden states, [n, hidden], through `layers`, in float32, to vectors, [n, readout.width]."""
    if readout.normalized:
        return lambda rows: normalize(layers(rows.float()), dim=-1)
    return lambda rows: layers(rows.float())


def load_layers(folder: Path, layers: Sequence[Layer], dtype: torch.dtype, device: torch.device | str) -> nn.Sequential:
    """x [..., inputs of the first] -> [..., outputs of the last], in `dtype` on `device`.

    The files of `folder` were checked when the layers were read.
    """
    modules = nn.Sequential(*(_load(folder, layer) for layer in layers))
    return modules.to(device, dtype).eval().requires_grad_(False)


def _load(folder: Path, layer: Layer) -> nn.Module:
    with safe_open(folder / layer.weights, "pt") as stored:  # which may hold the transformer as well
        tensors = {name: stored.get_tensor(name) for name in layer.shapes}
    if isinstance(layer, NormLayer):
        norm = Norm(layer.inputs)
        norm.load_state_dict(tensors)
        return norm
    dense = Dense(layer)
    dense.load_state_dict({name.replace(layer.name, "linear", 1): tensor for name, tensor in tensors.items()})
    return dense
