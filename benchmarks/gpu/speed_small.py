"""Small models, where the machine's own work beside the kernels shows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.findings import Finding, Run
from benchmarks.gpu.speed import Ceiling, findings_beside, measured
from benchmarks.gpu.trace import kernel_share, trace

_SHAPES = ("minilm-l6", "ettin-17m", "ettin-32m")
_TIMES = 2.0


def findings(run: Run) -> Iterator[Finding]:
    ceiling = Ceiling(run, torch.float16)
    yield ceiling.finding()
    for name in _SHAPES[:2] if run.tiny else _SHAPES:
        found = measured(run, name)
        yield Finding(f"{name}: ours", 30, lambda found=found: found.alone(ceiling.value, lambda got: True))
        half = partial(found.sentence_transformers, "float16")
        yield from findings_beside(found, {"sentence-transformers in float16": half}, _TIMES)
        yield Finding(f"{name}: share of time in kernels", 15, lambda found=found: kernel_share(run, found))
        yield Finding(f"{name}: where a pass's time goes", 20, lambda found=found: trace(run, found))
