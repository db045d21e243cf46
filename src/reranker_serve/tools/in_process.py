"""Scoring without a server, for tools that work through one request after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from reranker_serve.loader import load
from reranker_serve.service import Reranker
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.types import RerankRequest, RerankResult, Scorer

Answer = TypeVar("Answer")
Ask = Callable[[RerankRequest], RerankResult]


def load_in_process(settings: Settings) -> Scorer:
    """As `loader.load`, on a thread that ends, as in the server.

    Loaded on the main thread a pass took 1.3 to 1.5 times as long: probably because OpenMP keeps a team for every
    thread that computed, and lets each sleep between products where they are more than the cores.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load, settings).result()


def run_in_process(scorer: Scorer, settings: Settings, work: Callable[[Ask], Answer]) -> Answer:
    """`work(ask)` on a thread, where `ask` answers requests through the same service as the server's."""

    async def run() -> Answer:
        loop = asyncio.get_running_loop()
        with in_process(scorer, settings) as reranker:

            def ask(request: RerankRequest) -> RerankResult:
                return asyncio.run_coroutine_threadsafe(reranker.rerank(request), loop).result()

            return await asyncio.to_thread(work, ask)

    return asyncio.run(run())


def every_pair(settings: Settings) -> Settings:
    """Every pair is computed and comes back: what is measured must not come from the score cache, nor be left out."""
    return settings.model_copy(update={"cache_entries": 0, "min_score": None, "min_probability": None})


@contextmanager
def in_process(scorer: Scorer, settings: Settings) -> Iterator[Reranker]:
    """Of an event loop, until the block ends."""
    reranker = Reranker(scorer, every_pair(settings), Metrics())
    try:
        yield reranker
    finally:
        reranker.close()


def in_order(result: RerankResult) -> list[float]:
    """Scores in the order of the request's documents, of a request that waited for all."""
    ranking = sorted(result.ranking, key=lambda ranked: ranked.index)
    return [ranked.score for ranked in ranking if ranked.score is not None]
