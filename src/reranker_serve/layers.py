"""Layers that a checkpoint has after its transformer: a classification head, or a projection of tokens.

They are sentence-transformers' modules, read by `families/modules.py` and computed by `backends/torch/layers.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["identity", "gelu", "relu", "sigmoid", "silu", "tanh"]


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """[..., inputs] -> [..., outputs]: activation(W x + b), with `residual` plus x, or R x where the widths differ.

    `weights` is a file of the checkpoint's folder, as a path relative to it, with the tensors `linear.weight`, with
    `bias` `linear.bias`, and for R `residual.weight`; `name` stands for `linear`. The gelu is the exact one.
    """

    weights: str
    inputs: int
    outputs: int
    bias: bool
    activation: Activation
    residual: bool = False
    name: str = "linear"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the file."""
        shapes: dict[str, tuple[int, ...]] = {f"{self.name}.weight": (self.outputs, self.inputs)}
        if self.bias:
            shapes[f"{self.name}.bias"] = (self.outputs,)
        if self.residual and self.inputs != self.outputs:
            shapes["residual.weight"] = (self.outputs, self.inputs)
        return shapes


@dataclass(frozen=True, slots=True)
class NormLayer:
    """A layer norm with weight and bias, eps 1e-5; `weights` as in `DenseLayer`: `norm.weight` and `norm.bias`."""

    weights: str
    inputs: int

    @property
    def outputs(self) -> int:
        return self.inputs

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the file."""
        return {"norm.weight": (self.inputs,), "norm.bias": (self.inputs,)}


Layer = DenseLayer | NormLayer
