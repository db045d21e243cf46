"""What the machine is, and what of torch this project builds upon is there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.metadata import version

import torch

from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.machine import facts


def findings(run: Run) -> Iterator[Finding]:
    yield Finding("machine", 20, lambda: _machine(run))
    yield Finding("torch's varlen attention", 20, lambda: _varlen(run))


def _machine(run: Run) -> Outcome:
    names = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "fastapi", "uvicorn")
    found = facts() | {name: version(name) for name in names}
    if run.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        found |= {"gpu": properties.name, "gpu memory": f"{total / 2**30:.0f} GiB, {free / 2**30:.0f} free"}
        found |= {"cuda": str(torch.version.cuda), "capability": f"{properties.major}.{properties.minor}"}
    return Outcome(None, ", ".join(f"{name} {value}" for name, value in found.items() if name != "flags"), found)


def _varlen(run: Run) -> Outcome:
    """It computes with queries of fewer tokens than keys, in a window, as the mask of the same says."""
    from torch.nn.attention.varlen import varlen_attn

    takes = list(inspect.signature(varlen_attn).parameters)
    if not run.on_gpu:
        return Outcome("scale" in takes and "window_size" in takes, f"takes {', '.join(takes)}", {"takes": takes})
    worst = 0.0
    for window in ((-1, -1), (-1, 0), (7, 7), (7, 0)):
        worst = max(worst, _difference_in(window))
    return Outcome(worst < 2e-2, f"differs by {worst:.2g} from masks; takes {', '.join(takes)}", {"takes": takes})


def _difference_in(window: tuple[int, int], queries: int = 40, keys: int = 100) -> float:
    from torch.nn.attention.varlen import varlen_attn

    torch.manual_seed(0)
    q, k, v = (torch.randn(n, 4, 16, device="cuda", dtype=torch.float16) for n in (queries, keys, keys))
    bounds = [torch.tensor([0, n], device="cuda", dtype=torch.int32) for n in (queries, keys)]
    got = varlen_attn(q, k, v, *bounds, queries, keys, scale=0.25, window_size=window)
    i = torch.arange(keys - queries, keys, device="cuda")[:, None]
    j = torch.arange(keys, device="cuda")[None]
    seen = torch.ones(queries, keys, device="cuda", dtype=torch.bool)
    if window[0] >= 0:
        seen &= i - j <= window[0]
    if window[1] >= 0:
        seen &= j - i <= window[1]
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * 0.25
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    expected = torch.einsum("hqk,khd->qhd", weights, v.float())
    return float((got.float() - expected).abs().max())
