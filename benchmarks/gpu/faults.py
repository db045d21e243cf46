"""Attention in long rows, numbers too large, memory that ends, and passes that overlap."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.checkpoints import damaged, texts, too_large_for_float16, wide
from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.gpu.scores import Scores, compared, facts, raw_scores, scorer_of, settings_for
from benchmarks.gpu.standin import watched
from reranker_serve.engine.kinds import OverlappingBackend
from reranker_serve.errors import ModelError
from reranker_serve.tools.in_process import in_order, run_in_process
from reranker_serve.types import Encoded, RerankRequest, Scorer
from tests.checkpoints import save_cross_encoder, save_language_model

_HEADS_OF_16 = {"hidden_size": 64, "intermediate_size": 128}
# name -> how it is saved; words of the longest document
_LONG = {
    "a shared prefix (Qwen3)": (lambda folder: save_language_model("qwen3", folder), 400),
    "a window of 200 behind a shared prefix (Mistral)": (
        lambda folder: save_language_model("mistral-classifier", folder),
        400,
    ),
    "a window to both sides (ModernBERT)": (
        lambda folder: save_cross_encoder("modernbert", folder, max_position_embeddings=4096, **_HEADS_OF_16),
        90,
    ),
}
_TOLERANCES = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}


def findings(run: Run) -> Iterator[Finding]:
    for name in _LONG:
        yield Finding(f"packed equals padded: {name}", 30, partial(_packed_as_padded, run, name))
    yield Finding("out of memory is survived", 40, lambda: _out_of_memory(run))
    yield Finding("a pass is begun while another is computed", 30, lambda: _overlap(run))
    yield Finding("numbers too large for float16", 20, lambda: _wider(run))
    yield Finding("damaged weights are refused", 20, lambda: _refused(run))


def _packed_as_padded(run: Run, name: str) -> Outcome:
    save, words = _LONG[name]
    folder = save(_empty(run, "long"))
    query, documents = texts(4 if run.tiny else 24, seed=1, longest=words // 4 if run.tiny else words)
    packed, padded = scorer_of(folder, run.device, half=True), scorer_of(folder, run.device, half=False)
    found = compared(raw_scores(packed, query, documents), raw_scores(padded, query, documents))
    ways = (packed.backend.attention, padded.backend.attention)
    ok = found["difference"] <= _TOLERANCES[packed.backend.dtype]
    as_meant = not run.on_gpu or (ways[0] == "packed varlen" and ways[1].startswith("padded"))
    line = f"{ways[0]} ({packed.backend.dtype}) and {ways[1]} ({padded.backend.dtype}) differ by"
    return Outcome(ok and as_meant, f"{line} {found['difference']:.2g}", found | facts(packed))


def _out_of_memory(run: Run) -> Outcome:
    """A request whose batches do not fit is answered with the scores that it has where they do."""
    folder = wide(run.work / "wide", run.tiny)
    scorer, backend = watched(scorer_of(folder, run.device, half=True))
    query, documents = texts(32 if run.tiny else 400, seed=2)
    expected = _asked(scorer, folder, run, query, documents)
    passes = backend.passes
    if run.on_gpu:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        # Room for batches of about a tenth of what fitted before.
        room = torch.cuda.memory_reserved() + 48 * 2**20
        torch.cuda.set_per_process_memory_fraction(room / total)
    else:
        backend.fits = 600
    try:
        got = _asked(scorer, folder, run, query, documents)
    finally:
        backend.fits = None
        if run.on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)
    found = compared(got, expected) | {"out_of_memory": backend.out_of_memory, "passes": backend.passes - passes}
    ok = backend.out_of_memory > 0 and found["difference"] <= _TOLERANCES[backend.dtype]
    told = f"out of memory {backend.out_of_memory} times in {found['passes']} passes ({passes} where all fits)"
    return Outcome(ok, f"{told}, scores differ by {found['difference']:.2g}", found)


def _asked(scorer: Scorer, folder: Path, run: Run, query: str, documents: list[str]) -> Scores:
    request = RerankRequest(query, tuple(documents), raw_scores=True)
    settings = settings_for(folder, run.device, half=True)
    return np.array(in_order(run_in_process(scorer, settings, lambda ask: ask(request))), dtype=np.float64)


def _overlap(run: Run) -> Outcome:
    folder = wide(_empty(run, "overlap"), run.tiny, hidden=2048)
    scorer = scorer_of(folder, run.device, half=True)
    backend = scorer.backend
    first, second = (_encoded(scorer, 8 if run.tiny else 160, seed) for seed in (3, 4))
    apart = [backend.forward(one.items) for one in (first, second)]
    if not isinstance(backend, OverlappingBackend):
        return Outcome(None, "this device's passes do not overlap", facts(scorer))
    done = torch.cuda.Event()
    torch.cuda.synchronize()
    start = time.perf_counter()
    one = backend.begin(first.items)
    done.record()
    begun = time.perf_counter() - start
    other = backend.begin(second.items)
    both_begun = time.perf_counter() - start
    overlaps = not done.query()
    together = [one(), other()]
    seconds = time.perf_counter() - start
    difference = max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(apart, together, strict=True))
    alone = _seconds_apart(backend, first, second)
    told = f"begun after {begun * 1e3:.1f} and {both_begun * 1e3:.1f} ms, done after {seconds * 1e3:.1f} ms;"
    told += f" one after the other {alone * 1e3:.1f} ms; the first was {'' if overlaps else 'NOT '}still running"
    values = {"begun": begun, "both_begun": both_begun, "done": seconds, "apart": alone, "difference": difference}
    return Outcome(overlaps and difference <= 1e-2, f"{told}; rows differ by {difference:.2g}", values)


def _encoded(scorer: Scorer, documents: int, seed: int) -> Encoded:
    query, found = texts(documents, seed)
    return scorer.family.encode(query, found, max_length=128, instruction=None)


def _seconds_apart(backend: OverlappingBackend, first: Encoded, second: Encoded) -> float:
    start = time.perf_counter()
    backend.forward(first.items)
    backend.forward(second.items)
    return time.perf_counter() - start


def _wider(run: Run) -> Outcome:
    folder = too_large_for_float16(save_cross_encoder("bert", _empty(run, "large"), **_HEADS_OF_16))
    scorer = scorer_of(folder, run.device, half=True)
    query, documents = texts(6, seed=5)
    scores = raw_scores(scorer, query, documents)
    known = facts(scorer)
    ok = bool(np.isfinite(scores).all()) and (not run.on_gpu or known["dtype"] == "bfloat16")
    return Outcome(ok, f"computed in {known['dtype']}: {known['precision_note']}", known)


def _refused(run: Run) -> Outcome:
    folder = damaged(save_cross_encoder("bert", _empty(run, "damaged"), **_HEADS_OF_16))
    try:
        scorer_of(folder, run.device, half=True)
    except ModelError as error:
        return Outcome("not finite" in str(error), str(error).replace(str(folder), "FOLDER"))
    return Outcome(False, "they were loaded")


def _empty(run: Run, name: str) -> Path:
    """A new folder for one finding's checkpoint."""
    folder = run.work / f"{name}-{len(list(run.work.iterdir()))}"
    folder.mkdir(parents=True)
    return folder
