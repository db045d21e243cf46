"""The server as a process on the GPU: three dialects, what it says of itself, and how it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np

from benchmarks.gpu.checkpoints import texts, wide
from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.gpu.scores import Scores, raw_scores, scorer_of
from tests.server.processes import CLI, Server, metric, running

_DIALECTS = {"Cohere": "/v2/rerank", "Jina": "/jina/v1/rerank", "Text Embeddings Inference": "/tei/rerank"}
# Of probabilities, which a sigmoid makes of the scores.
_TOLERANCE = 2e-2


def findings(run: Run) -> Iterator[Finding]:
    folder = wide(run.work / "wide", run.tiny)
    scorer = scorer_of(folder, "cpu", half=False)
    query, documents = texts(12)
    expected = np.asarray(scorer.family.activate(raw_scores(scorer, query, documents).astype(np.float32)))
    settings = {"model_path": str(folder), "device": run.device, "cache_entries": "0"}
    start = time.time()
    with running(run.work, [*CLI, "serve"], **settings) as server:
        yield Finding("/ready", 80, lambda: _ready(server, start))
        for name in _DIALECTS:
            yield Finding(f"scores over HTTP: {name}", 20, partial(_scores, server, name, query, documents, expected))
        yield Finding("/info", 10, lambda: _info(run, server))
        yield Finding("/metrics", 10, lambda: _metrics(server))
        yield Finding("SIGTERM answers what was let in", 60, lambda: _drained(run, server))


def _ready(server: Server, start: float) -> Outcome:
    server.wait_ready(75)
    return Outcome(True, f"after {time.time() - start:.1f} s")


def _scores(server: Server, name: str, query: str, documents: list[str], expected: Scores) -> Outcome:
    body = {"query": query, "documents": documents, "model": "any"}
    if name == "Text Embeddings Inference":
        body = {"query": query, "texts": documents}
    reply = httpx.post(server.url + _DIALECTS[name], json=body, timeout=20)
    if reply.status_code != 200:
        return Outcome(False, f"{reply.status_code}: {reply.text[:200]}")
    found = reply.json()
    rows = found if isinstance(found, list) else found["results"]
    got = {row["index"]: row.get("relevance_score", row.get("score")) for row in rows}
    difference = max(abs(got[i] - expected[i]) for i in range(len(expected)))
    return Outcome(difference <= _TOLERANCE, f"differ by {difference:.2g} from float32 on the CPU")


def _info(run: Run, server: Server) -> Outcome:
    found = httpx.get(f"{server.url}/info", timeout=5).json()
    told = {name: found.get(name) for name in ("device", "dtype", "precision_note", "attention")}
    ok = not run.on_gpu or (str(told["device"]).startswith("cuda") and told["attention"] == "packed varlen")
    return Outcome(ok, ", ".join(f"{name} {value}" for name, value in told.items()), {"info": found})


def _metrics(server: Server) -> Outcome:
    pairs, tokens = (metric(server.url, name) for name in ("reranker_pairs_total", "reranker_tokens_total"))
    return Outcome(pairs == len(_DIALECTS) * 12, f"{pairs:.0f} pairs, {tokens:.0f} tokens")


def _drained(run: Run, server: Server) -> Outcome:
    callers, documents = 8, 60 if run.tiny else 2000
    query, found = texts(documents, seed=6)
    body = {"query": query, "documents": found}
    with ThreadPoolExecutor(callers) as threads:
        replies = [threads.submit(httpx.post, f"{server.url}/v2/rerank", json=body, timeout=50) for _ in range(callers)]
        deadline = time.time() + 20
        while not metric(server.url, "reranker_queue_tokens") and time.time() < deadline:
            time.sleep(0.005)
        left = metric(server.url, "reranker_queue_tokens")
        status = server.terminate(45)
        codes = [reply.result().status_code for reply in replies if not reply.exception()]
    # Who had not been let in by then may be refused or find nobody there.
    ok = status == 0 and 200 in codes and set(codes) <= {200, 503}
    told = f"{left:.0f} tokens waited; exit status {status}; {codes.count(200)} of {callers} answered, {codes}"
    return Outcome(ok, told, {"python": sys.version.split()[0]})
