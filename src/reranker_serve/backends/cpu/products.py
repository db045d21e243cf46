"""Which product computes the linear layers of a model on a CPU, and where 8-bit integers are refused."""

from __future__ import annotations

from typing import Literal

import torch

from reranker_serve.backends.cpu.int8 import int8_product
from reranker_serve.backends.cpu.linear import MakeProduct, packed_product, works
from reranker_serve.backends.device import Machine
from reranker_serve.errors import ModelError
from reranker_serve.readouts import PooledReadout, Readout, VectorsReadout

Quantization = Literal["none", "int8"]


def choose_product(device: str, dtype: torch.dtype, quantization: Quantization) -> MakeProduct | None:
    """What computes the linear layers in the place of their own; None where that does."""
    if quantization == "int8":
        return int8_product
    packs = device == "cpu" and dtype in (torch.bfloat16, torch.float32)
    return packed_product if packs and works(packed_product, dtype) else None


def check_quantization(
    quantization: Quantization, device: str, dtype: torch.dtype, readout: Readout, machine: Machine
) -> None:
    """Raise `ModelError` where a quantization cannot be used, or costs more of the ranking than it is worth."""
    if quantization == "none":
        return
    if device != "cpu":
        raise ModelError(f"RERANKER_QUANTIZATION=int8 is for a CPU, not for {device}: leave it unset")
    if isinstance(readout, PooledReadout | VectorsReadout):  # measured: docs/quality.md
        raise ModelError("RERANKER_QUANTIZATION=int8 costs embedding models too much of their ranking: leave it unset")
    if not machine.cpu_int8:
        raise ModelError(
            "RERANKER_QUANTIZATION=int8 needs a processor that multiplies 8-bit integers (VNNI or AMX): leave it unset"
        )
    if not works(int8_product, dtype):
        raise ModelError("RERANKER_QUANTIZATION=int8 needs 8-bit kernels that are missing here: leave it unset")
