"""The machine: what it is, and how fast it multiplies matrices of a model's shapes.

`python -m benchmarks.machine SHAPE THREADS` measures in a process of its own and prints JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES, Shape

_TOKENS = 2048
_SECONDS = 1.0
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")


def facts() -> dict[str, str]:
    """Processor, its flags that matter, cores, memory, system."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "cores": str(cores()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ceilings(shape: Shape) -> dict[str, float]:
    """GFLOP/s of the matrix products of one layer, by precision; as the share of each in the work."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.machine", shape.name, str(cores())],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(shape: Shape) -> dict[str, float]:
    import torch

    found = {
        name: _rate(shape, _linear(shape, dtype))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    try:
        found["int8"] = _rate(shape, _int8(shape))
    except (RuntimeError, AttributeError) as error:
        print(f"no int8 ceiling: {error}", file=sys.stderr)
    return found


def _products(shape: Shape) -> list[tuple[int, int]]:
    """Inner and outer dimension of each matrix of a layer, those of one input together."""
    up = (2 if shape.gated else 1) * shape.intermediate
    return [
        (shape.hidden, shape.attention + 2 * shape.kv),
        (shape.attention, shape.hidden),
        (shape.hidden, up),
        (shape.intermediate, shape.hidden),
    ]


def _linear(shape: Shape, dtype: Any) -> Callable[[], object]:
    import torch

    layers = [torch.nn.Linear(inside, outside).to(dtype) for inside, outside in _products(shape)]
    inputs = [torch.randn(_TOKENS, layer.in_features, dtype=dtype) for layer in layers]
    return lambda: [layer(x) for layer, x in zip(layers, inputs, strict=True)]


def _int8(shape: Shape) -> Callable[[], object]:
    """oneDNN's linear layer on uint8 activations and int8 weights, to bfloat16."""
    import torch

    from reranker_serve.backends.torch.machine import inspect_machine

    if not inspect_machine().cpu_int8:
        raise RuntimeError("the processor does not multiply 8-bit integers")
    qlinear, prepack = torch.ops.onednn.qlinear_pointwise, torch.ops.onednn.qlinear_prepack
    layers = []
    for inside, outside in _products(shape):
        weight = torch.randint(-128, 128, (outside, inside), dtype=torch.int8)
        scales, zeros = torch.full((outside,), 0.01), torch.zeros(outside, dtype=torch.int8)
        x = torch.randint(0, 255, (_TOKENS, inside), dtype=torch.uint8)
        layers.append((x, prepack(weight, None), scales, zeros, torch.zeros(outside)))

    def run() -> object:
        return [
            qlinear(x, 0.01, 128, packed, scales, zeros, bias, 1.0, 0, torch.bfloat16, "none", [], "")
            for x, packed, scales, zeros, bias in layers
        ]

    return run


def _rate(shape: Shape, run: Callable[[], object]) -> float:
    """The best of the runs that fit about a second: a ceiling is what the machine can do undisturbed."""
    import torch

    operations = 2.0 * _TOKENS * sum(inside * outside for inside, outside in _products(shape))
    best, end = float("inf"), time.perf_counter() + _SECONDS
    with torch.inference_mode():
        run()
        while time.perf_counter() < end:
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
    return operations / best / 1e9


if __name__ == "__main__":
    import torch

    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(measure(SHAPES[sys.argv[1]])))
