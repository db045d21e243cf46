"""Writes the generated table of `docs/performance.md`: which device computes what in which precision.

python -m tests.write_performance_page
"""

from __future__ import annotations

from pathlib import Path

import torch

from reranker_serve.backends.cpu.products import check_quantization
from reranker_serve.backends.device import DType, Machine, choose_precisions
from reranker_serve.errors import ModelError
from reranker_serve.readouts import ClassifierReadout, PooledReadout, Readout
from tests.generated import write

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
WRITER = "tests/write_performance_page.py"

_STORED: tuple[DType, ...] = ("float32", "bfloat16", "float16")
_ROWS: tuple[tuple[str, str, Machine], ...] = (
    ("CPU with AVX512-BF16 or AMX", "cpu", Machine(0, False, cpu_bfloat16=True, cpu_int8=True)),
    ("CPU with VNNI, without bfloat16", "cpu", Machine(0, False, cpu_bfloat16=False, cpu_int8=True)),
    ("CPU with AVX2 alone", "cpu", Machine(0, False, cpu_bfloat16=False, cpu_int8=False)),
    ("NVIDIA GPU, compute capability 8.0 or more", "cuda:0", Machine(1, False, False, False, frozenset({0}))),
    ("older NVIDIA GPU", "cuda:0", Machine(1, False, False, False)),
    ("Apple GPU", "mps", Machine(0, True, False, False)),
)


def generated() -> str:
    stored = " | ".join(f"weights in {precision}" for precision in _STORED)
    lines = [
        f"| device | {stored} | int8: classifiers and language models | int8: models that give vectors |",
        "|---" * (len(_STORED) + 3) + "|",
        *(_row(name, device, machine) for name, device, machine in _ROWS),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, device: str, machine: Machine) -> str:
    precisions = [", ".join(choose_precisions([device], True, stored, machine)) for stored in _STORED]
    int8 = [_takes_int8(device, machine, readout) for readout in (ClassifierReadout(), PooledReadout("mean", 1))]
    return "| " + " | ".join([name, *precisions, *int8]) + " |"


def _takes_int8(device: str, machine: Machine, readout: Readout) -> str:
    try:
        check_quantization("int8", device, torch.float32, readout, machine)
    except ModelError as error:
        if "kernels that are missing here" not in str(error):  # which is about the machine that writes this
            return "no"
    return "yes"


if __name__ == "__main__":
    write(PAGE, WRITER, generated())
