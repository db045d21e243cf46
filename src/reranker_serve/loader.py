"""Settings -> Scorer: choose family and backend for the model's files. The only place where the two meet."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from reranker_serve.backends import device as policy
from reranker_serve.backends.cpu import cores, nodes
from reranker_serve.collection import no_collections
from reranker_serve.engine.kinds import PlacedBackend
from reranker_serve.errors import OutOfMemory
from reranker_serve.families.registry import build_family, read_checkpoint
from reranker_serve.model_files.find import opened
from reranker_serve.model_files.folders import ModelFiles
from reranker_serve.settings import Settings
from reranker_serve.types import Backend, EncodedItem, Family, ModelInfo, Scorer, count_tokens

logger = logging.getLogger(__name__)

_WARM_UP_TEXT = "How fast is it? "
_LONG_ENOUGH_S = 0.1


def load(settings: Settings) -> Scorer:
    """Load the configured model. Raises `StartupError` with one line that says what to do."""
    with opened(settings) as files:
        return _load(files, settings)


def _load(files: ModelFiles, settings: Settings) -> Scorer:
    checkpoint = read_checkpoint(files.folder)
    threads = _threads(settings)
    wanted = {**policy.environment_before_torch(), "RAYON_NUM_THREADS": str(threads)}  # of tokenizers
    os.environ.update(policy.apply_environment(os.environ, wanted))
    family = build_family(checkpoint, settings)
    with no_collections():
        from reranker_serve.backends.torch.load import load as load_backends  # seconds of import, only needed here
    gc.freeze()  # its modules are there to stay

    backends = load_backends(
        checkpoint,
        family.readout,
        device=settings.device,
        half_precision=settings.use_fp16,
        threads=threads,
        quantization=settings.quantization,
        cpu_lanes=_cpu_lanes(settings, threads),
    )
    if settings.workers > 1 and len(backends) > 1:
        logger.warning(
            "each of %d workers has a model on each of %d lanes: one worker (RERANKER_WORKERS=1) computes with all"
            " of them, and holds them once",
            settings.workers,
            len(backends),
        )
    info = ModelInfo(settings.served_name, files.revision, checkpoint.architecture, backends[0].precision_note)
    return Scorer(info, family, backends, _warm_ups(family, backends, settings))


def _warm_ups(family: Family, backends: Sequence[PlacedBackend], settings: Settings) -> tuple[tuple[int, float], ...]:
    """Those of lanes are made side by side, as they are going to compute."""
    if len(backends) == 1:
        return (warm_up(family, backends[0], settings),)
    threads = [ThreadPoolExecutor(1, initializer=backend.enter_thread) for backend in backends]
    made = [
        thread.submit(warm_up, family, backend, settings) for thread, backend in zip(threads, backends, strict=True)
    ]
    try:
        return tuple(warm_up.result() for warm_up in made)
    finally:
        for thread in threads:
            thread.shutdown()


def warm_up(family: Family, backend: Backend, settings: Settings) -> tuple[int, float]:
    """Tokens and seconds of the first forward pass that took long enough to tell how fast the model computes."""
    longest = family.max_length_bounds[1]
    text = _WARM_UP_TEXT * 32  # as long as a search result
    budget = settings.token_budget(backend.batch_token_cap)
    documents, measured = 1, None
    while True:
        encoded = family.encode("warm up", [text] * documents, max_length=longest, instruction=None)
        tokens = count_tokens(encoded.items)
        try:
            # The better of two: one may have to wait for other programs.
            measured = tokens, min(_seconds(backend, encoded.items) for _ in range(2))
        except OutOfMemory:
            if measured is None:
                raise
            return measured
        if measured[1] >= _LONG_ENOUGH_S or 2 * tokens > budget:
            return measured
        documents *= 2


def _cpu_lanes(settings: Settings, threads: int) -> list[nodes.Cores | None]:
    """The cores of each lane on a CPU: a lane a NUMA node, if it is for this process to compute with all of them."""
    own = nodes.own_cores()
    there = nodes.by_node(own)
    lanes = settings.cpu_lanes or (len(there) if threads == len(own) else 1)
    return nodes.divide(there, lanes) if lanes > 1 else [None]


def _threads(settings: Settings) -> int:
    openmp = os.environ.get("OMP_NUM_THREADS")
    threads = cores.threads(settings.cpu_threads, openmp, cores.available_cores(), settings.workers)
    if openmp:
        heard = "ignored" if settings.cpu_threads or not cores.openmp_threads(openmp) else "honoured"
        logger.info("computing with %d thread(s): OMP_NUM_THREADS=%s is %s", threads, openmp, heard)
    return threads


def _seconds(backend: Backend, items: Sequence[EncodedItem]) -> float:
    start = time.monotonic()
    backend.forward(items)
    return time.monotonic() - start
