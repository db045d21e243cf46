"""bge-reranker-v2-m3's shape. sentence-transformers' page has 1,569 pairs/s of it on an H100."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.findings import Finding, Run
from benchmarks.gpu.speed import Ceiling, findings_beside, measured
from benchmarks.gpu.trace import kernel_share, trace

_PAIRS_PER_SECOND, _OF_CEILING = 3400, 0.45


def findings(run: Run) -> Iterator[Finding]:
    found, ceiling = measured(run, "xlm-r-large", "float16" if run.on_gpu else "float32"), Ceiling(run, torch.float16)
    yield ceiling.finding()
    yield Finding(
        f"{found.shape.name}: ours on Natural Questions",
        60,
        lambda: found.alone(
            ceiling.value, lambda got: got["pairs_per_second"] >= _PAIRS_PER_SECOND or got["of_ceiling"] >= _OF_CEILING
        ),
    )
    half = partial(found.sentence_transformers, "float16")
    yield from findings_beside(found, {"sentence-transformers in float16": half})
    yield Finding(f"{found.shape.name}: GPU under load", 20, found.under_load)
    yield Finding(f"{found.shape.name}: share of time in kernels", 20, lambda: kernel_share(run, found))
    yield Finding(f"{found.shape.name}: where a pass's time goes", 30, lambda: trace(run, found))
    bfloat16 = partial(found.sentence_transformers, "bfloat16")
    yield from findings_beside(found, {"sentence-transformers in bfloat16": bfloat16})
