"""Where the time goes: kernels, and what the processor did while there was none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.findings import Outcome, Run
from benchmarks.gpu.speed import Measured
from reranker_serve.types import EncodedItem, count_tokens

_MOST_BYTES = 2 * 2**20
_ROWS = 30
_GAPS = 20
_GAP_MICROSECONDS = 5.0

Spans = list[tuple[float, float]]


def kernel_share(run: Run, found: Measured) -> Outcome:
    """Of a whole round, tokenizing and all: while any kernel ran."""
    if not run.on_gpu:
        return Outcome(None, "no GPU to ask")
    requests = found.requests(0)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        start = time.perf_counter()
        found.ours.score(requests)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    share = sum(stop - start for start, stop in _busy(seen.events())) / 1e6 / seconds
    return Outcome(None, f"{share:.2f} of {seconds * 1e3:.0f} ms", {"share": share, "seconds": seconds})


def trace(run: Run, found: Measured) -> Outcome:
    """One full pass after the other, on this thread; tables go to a file of its own."""
    backend, items = found.ours.scorer.backend, _pass(found)
    backend.forward(items)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.on_gpu else [])]
    with profile(activities=activities) as seen:
        start = time.perf_counter()
        backend.forward(items)
        seconds = time.perf_counter() - start
    spans = _busy(seen.events())
    busy = sum(stop - start for start, stop in spans) / 1e6
    averages = seen.key_averages()
    head = f"{found.shape.name}: {len(items)} items of {count_tokens(items)} tokens in {seconds * 1e3:.2f} ms, kernels"
    head += f" {busy * 1e3:.2f} ms (both while traced)"
    parts = [head]
    if run.on_gpu:
        parts.append(averages.table(sort_by="self_cuda_time_total", row_limit=_ROWS, max_name_column_width=80))
        parts.append(_gaps(spans, seen.events()))
    parts.append(averages.table(sort_by="self_cpu_time_total", row_limit=_ROWS, max_name_column_width=80))
    path = run.out / f"trace-{found.shape.name}.txt"
    path.write_text("\n\n".join(parts)[:_MOST_BYTES] + "\n")
    untraced = _seconds(backend, items)
    line = f"{count_tokens(items)} tokens in {untraced * 1e3:.2f} ms, kernels {busy * 1e3:.2f} ms; {path.name}"
    return Outcome(None, line, {"seconds": untraced, "kernels": busy, "traced": seconds})


def _seconds(backend: Any, items: Sequence[EncodedItem]) -> float:
    start = time.perf_counter()
    for _ in range(3):
        backend.forward(items)
    return (time.perf_counter() - start) / 3


def _pass(found: Measured) -> list[EncodedItem]:
    """The items of as many requests as fit one pass of the usual size."""
    family, items = found.ours.scorer.family, list[EncodedItem]()
    budget = 32 * 512
    for request in found.requests(0):
        encoded = family.encode(
            request.query, list(request.documents), max_length=found.shape.max_length, instruction=None
        )
        for item in encoded.items:
            if count_tokens([*items, item]) > budget:
                return items
            items.append(item)
    return items


def _busy(events: Any) -> Spans:
    """When something ran on the GPU, in microseconds, in order and without overlaps."""
    spans: Spans = []
    device = torch.autograd.DeviceType.CUDA
    times = (one.time_range for one in events if one.device_type == device)
    for start, stop in sorted((one.start, one.end) for one in times):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans


def _gaps(spans: Spans, events: Any) -> str:
    """The longest times without a kernel, and what ran on the processor when they began."""
    host = [one for one in events if one.device_type == torch.autograd.DeviceType.CPU]
    gaps = [(left[1], right[0]) for left, right in pairwise(spans)]
    long = [gap for gap in gaps if gap[1] - gap[0] >= _GAP_MICROSECONDS]
    total = sum(stop - start for start, stop in long)
    lines = [f"{len(long)} gaps between kernels of {_GAP_MICROSECONDS:.0f} us or more, {total / 1e3:.2f} ms together"]
    for start, stop in sorted(long, key=lambda gap: gap[0] - gap[1])[:_GAPS]:
        around = [one for one in host if one.time_range.start <= start < one.time_range.end]
        name = min(around, key=lambda one: one.time_range.end - one.time_range.start).name if around else "none"
        lines.append(f"  {stop - start:8.1f} us at {(start - spans[0][0]) / 1e3:8.2f} ms, during {name}")
    return "\n".join(lines)
