"""The real server over the fake scorer. SECONDS_PER_BATCH slows the model; BATCH_TOKENS caps a batch.

With FAULT_AT_START the model is loaded, and then cannot be served.

The model fails in the way that a word of a text names: `faultraise`, `faultnan`, `faultshape`,
`faultmemory`, `faultlost`, `faulthang`; beside `faultcrowd` there is memory for one item more.
With `faultnative` it computes for ever, in and out of native code as a real one does.
PATIENCE_S is how long a supervisor waits for a worker's sign of life.
SIGUSR1 prints the number of asyncio tasks to the log.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from fastapi import FastAPI

from reranker_serve import server
from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.environment import load_settings
from reranker_serve.errors import BackendLost, OutOfMemory, RerankerError
from reranker_serve.process import SharedFlag
from reranker_serve.server import serve, worker_application
from reranker_serve.telemetry.logs import configure_logging
from reranker_serve.types import EncodedItem, FloatArray, Scorer


class FaultyBackend(FakeBackend):
    """Fails as told by the words of the texts, as a real model or driver may."""

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        words = {number for item in items for number in item.ids.tolist()}
        if _number("faulthang") in words:
            time.sleep(3600)
        if _number("faultnative") in words:
            _compute_for_ever()
        for fault, error in (
            ("faultraise", RuntimeError("a kernel failed")),
            ("faultmemory", OutOfMemory("no memory left")),
            ("faultlost", BackendLost("the device fell off the bus")),
        ):
            if _number(fault) in words:
                raise error
        if _number("faultcrowd") in words and len(items) > 2:
            raise OutOfMemory("no memory left for so many")
        rows = super().forward(items)
        poisoned = [_number("faultnan") in item.ids for item in items]
        rows[poisoned] = np.nan
        return rows[:, 0] if _number("faultshape") in words else rows


class UnservableBackend(FakeBackend):
    """Has a bug that shows when the first server is built over it."""

    @property
    def batch_token_cap(self) -> int | None:
        raise RuntimeError("no such thing as a cap")

    @batch_token_cap.setter
    def batch_token_cap(self, cap: int | None) -> None:
        pass


def _compute_for_ever() -> None:
    import torch

    x = torch.ones(64, 64)
    while True:
        torch.mm(x, x)


def _number(word: str) -> int:
    return crc32(word.encode()) & 0x7FFFFFF | 1


def scorer() -> Scorer:
    if "FAULT_AT_START" in os.environ:
        return fake_scorer(UnservableBackend())
    seconds = float(os.environ.get("SECONDS_PER_BATCH", "0"))
    cap = int(os.environ.get("BATCH_TOKENS", "4096"))
    return fake_scorer(FaultyBackend(before_forward=lambda _: time.sleep(seconds), batch_token_cap=cap))


def worker(others_serve: SharedFlag) -> FastAPI:
    return worker_application(others_serve, scorer())


if __name__ == "__main__":
    server._WORKER_HEALTHCHECK_S = int(os.environ.get("PATIENCE_S", "120"))
    settings, _ = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    signal.signal(signal.SIGUSR1, lambda *_: print(f"tasks={len(asyncio.all_tasks())}", file=sys.stderr, flush=True))
    try:
        raise SystemExit(serve(settings, scorer=scorer(), worker=worker))
    except RerankerError as error:
        raise SystemExit(f"error: {error}") from None
