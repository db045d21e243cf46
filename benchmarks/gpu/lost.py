"""A GPU that is lost: nobody waits for ever, and who runs the server is told. In a process that ends after it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import torch

from benchmarks.gpu.checkpoints import texts, wide
from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.gpu.scores import scorer_of, settings_for
from benchmarks.gpu.standin import Watched, watched
from reranker_serve.errors import NotReady
from reranker_serve.service import Reranker
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.types import RerankRequest


def findings(run: Run) -> Iterator[Finding]:
    yield Finding("a lost device ends the model thread", 22, lambda: _lost(run))


def _lost(run: Run) -> Outcome:
    folder = wide(run.work / "wide", tiny=True)
    scorer, backend = watched(scorer_of(folder, run.device, half=True))
    died = threading.Event()

    async def ask() -> tuple[int, str]:
        reranker = Reranker(scorer, settings_for(folder, run.device, half=True), Metrics(), on_death=died.set)
        query, documents = texts(8)
        request = RerankRequest(query, tuple(documents))
        before = len((await reranker.rerank(request)).ranking)
        _lose(run, backend)
        try:
            await asyncio.wait_for(reranker.rerank(request), 10)
        except NotReady as error:
            return before, str(error)
        finally:
            reranker.close()
        return before, ""

    before, told = asyncio.run(ask())
    return Outcome(before == 8 and died.wait(5) and bool(told), f"the caller was told: {told}")


def _lose(run: Run, backend: Watched) -> None:
    """An index that a kernel finds to be out of range: nothing is computed in this process any more."""
    if not run.on_gpu:
        backend.lost = True
        return
    numbers = torch.zeros(4, device="cuda")
    with suppress(RuntimeError):
        numbers[torch.tensor([1 << 20], device="cuda")].cpu()
