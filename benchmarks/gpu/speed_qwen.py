"""Qwen3-Reranker's shapes with the shared prefix; and the calls of attention that they could make."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.gpu.speed import Ceiling, findings_beside, measured
from benchmarks.gpu.trace import kernel_share, trace

_ITEMS_PER_SECOND = 2700
# 64 documents of 150 tokens behind a prefix of 120, 16 heads on 8.
_DOCUMENTS, _OWN, _PREFIX, _HEADS, _KEY_HEADS, _WIDTH = 64, 150, 120, 16, 8, 128


def findings(run: Run) -> Iterator[Finding]:
    half = "bfloat16" if run.on_gpu else "float32"
    ceiling = Ceiling(run, torch.bfloat16)
    yield ceiling.finding()
    small = measured(run, "qwen3-0.6b", half)
    yield Finding(
        f"{small.shape.name}: ours behind a shared prefix",
        60,
        lambda: small.alone(ceiling.value, lambda got: got["pairs_per_second"] >= _ITEMS_PER_SECOND),
    )
    recipe = partial(small.transformers, "bfloat16")
    yield from findings_beside(small, {"the published recipe in transformers": recipe})
    yield Finding(f"{small.shape.name}: share of time in kernels", 15, lambda: kernel_share(run, small))
    yield Finding(f"{small.shape.name}: where a pass's time goes", 20, lambda: trace(run, small))
    yield Finding("calls of packed attention", 15, lambda: _calls(run))
    if not run.tiny:
        large = measured(run, "qwen3-4b", half)
        large.rounds = 2
        yield Finding("qwen3-4b: ours behind a shared prefix", 60, lambda: large.alone(ceiling.value, lambda got: True))


def _calls(run: Run) -> Outcome:
    """With keys repeated for all heads, as every version takes them, and not; through Python, and below it."""
    if not run.on_gpu:
        return Outcome(None, "no GPU to ask")
    from torch.nn.attention.varlen import varlen_attn

    total, keys = _DOCUMENTS * _OWN, _DOCUMENTS * (_OWN + _PREFIX)
    q = torch.randn(total, _HEADS, _WIDTH, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(keys, _KEY_HEADS, _WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    steps = [torch.arange(_DOCUMENTS + 1, device="cuda", dtype=torch.int32) * n for n in (_OWN, _OWN + _PREFIX)]
    bounds = (*steps, _OWN, _OWN + _PREFIX)

    def repeated(part: Tensor) -> Tensor:
        return part.repeat_interleave(_HEADS // _KEY_HEADS, dim=1)

    def below(keys: Tensor, values: Tensor) -> Tensor:
        flash = torch.ops.aten._flash_attention_forward
        out: Tensor = flash(q, keys, values, *bounds, 0.0, True, return_debug_mask=False, scale=0.1)[0]
        return out

    calls: dict[str, Callable[[], Tensor]] = {
        "varlen_attn, repeated": lambda: varlen_attn(q, repeated(k), repeated(v), *bounds, window_size=(-1, 0)),
        "aten, repeated": lambda: below(repeated(k), repeated(v)),
        "aten, not repeated": lambda: below(k, v),
    }
    times = {name: _microseconds(call) for name, call in calls.items()}
    first, *others = (call().float() for call in calls.values())
    difference = max(float((one - first).abs().max()) for one in others)
    told = ", ".join(f"{name} {device:.0f} us ({host:.0f} us to call)" for name, (device, host) in times.items())
    return Outcome(None, f"{told}; differ by {difference:.2g}", {"times": times, "difference": difference})


def _microseconds(call: Callable[[], Tensor], times: int = 50) -> tuple[float, float]:
    """Of one call: until it is computed, and until it returns."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    returned = time.perf_counter() - start
    torch.cuda.synchronize()
    done = time.perf_counter() - start
    return done / times * 1e6, returned / times * 1e6
