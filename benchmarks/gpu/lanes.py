"""A lane for each GPU of the machine: the scores of one, by all of them, also when one is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu.checkpoints import texts, wide
from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.gpu.scores import raw_scores, scorer_of, settings_for
from benchmarks.gpu.standin import Watched, watched_lanes
from reranker_serve.loader import load
from reranker_serve.service import Reranker
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.types import RerankRequest

_REQUESTS = 12
# Of scores in half precision, beside others in a batch.
_TOLERANCE = 5e-2


def findings(run: Run) -> Iterator[Finding]:
    yield Finding("one lane, and a lane for each GPU, give the same scores", 55, lambda: _lanes(run))


def _lanes(run: Run) -> Outcome:
    """Without a GPU there are two lanes on the CPU."""
    folder = wide(run.work / "wide", tiny=True)
    device = "cuda" if run.on_gpu else "cpu"
    settings = settings_for(folder, device, half=True, cpu_lanes="2", cpu_threads="2")
    query, documents = texts(24)
    expected = raw_scores(scorer_of(folder, "cuda:0" if run.on_gpu else "cpu", half=True), query, documents)
    scorer, backends = watched_lanes(load(settings))

    async def ask() -> tuple[float, list[int], float]:
        reranker = Reranker(scorer, settings, Metrics())
        try:
            before = await _difference(reranker, query, documents, expected)
            passes = [backend.passes for backend in backends]
            return before, passes, await _beside_a_lost_one(reranker, backends, query, documents, expected)
        finally:
            reranker.close()

    before, passes, after = asyncio.run(ask())
    there = torch.cuda.device_count() if run.on_gpu else 2
    scale = max(1.0, float(np.abs(expected).max()))
    ok = max(before, after) <= _TOLERANCE * scale and all(passes)
    found = {"devices": scorer.device, "lanes": len(backends), "there": there, "passes": passes}
    line = f"{len(backends)} lane(s) of {there} device(s), passes {passes}: differ by {before:.2g}"
    return Outcome(ok, line + (f", with one lost by {after:.2g}" if len(backends) > 1 else ""), found)


async def _beside_a_lost_one(
    reranker: Reranker, backends: list[Watched], query: str, documents: list[str], expected: np.ndarray
) -> float:
    if len(backends) == 1:
        return 0.0
    backends[0].lost = True
    difference = await _difference(reranker, query, documents, expected)
    lost = [lane.device for lane in reranker.engine.lanes if lane.reason]
    return difference if len(lost) == 1 else np.inf


async def _difference(reranker: Reranker, query: str, documents: list[str], expected: np.ndarray) -> float:
    """The greatest, of the scores of some requests at once."""
    request = RerankRequest(query, tuple(documents), raw_scores=True)
    results = await asyncio.gather(*(reranker.rerank(request) for _ in range(_REQUESTS)))
    return max(abs((each.score or 0.0) - expected[each.index]) for result in results for each in result.ranking)
