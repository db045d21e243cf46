"""This project, in-process: the same service as behind HTTP, without HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.contestants import versions
from benchmarks.pairs import Request, by_request, pairs_of


def settings_of(
    folder: Path, threads: int, max_length: int, quantization: str | None, device: str = "cpu"
) -> dict[str, str]:
    """The server's settings in a measurement. Raises `RuntimeError` where it has no such quantization."""
    from reranker_serve.settings import Settings

    values = {
        "RERANKER_MODEL_PATH": str(folder),
        "RERANKER_MAX_LENGTH": str(max_length),
        "RERANKER_CPU_THREADS": str(threads),
        "RERANKER_DEVICE": device,
        "RERANKER_CACHE_ENTRIES": "0",
        "RERANKER_USE_OFFLINE_MODE": "true",
        "RERANKER_LOG_LEVEL": "WARNING",
    }
    if quantization:
        if "quantization" not in Settings.model_fields:
            raise RuntimeError("this version has no RERANKER_QUANTIZATION")
        values["RERANKER_QUANTIZATION"] = quantization
    return values


class Ours:
    """Default precision."""

    quantization: str | None = None

    def __init__(self, folder: Path, kind: str, threads: int, max_length: int, device: str = "cpu") -> None:
        self._values = settings_of(folder, threads, max_length, self.quantization, device)
        self._loop = asyncio.new_event_loop()

    def prepare(self) -> dict[str, str]:
        from reranker_serve.environment import load_settings
        from reranker_serve.service import Reranker
        from reranker_serve.telemetry.metrics import Metrics
        from reranker_serve.tools.in_process import load_in_process

        settings, _ = load_settings(self._values, env_file=Path("/nonexistent"))
        self.scorer = scorer = load_in_process(settings)
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._reranker = Reranker(scorer, settings, Metrics())
        backend = scorer.backend
        return versions("reranker-serve", "torch", "transformers") | {
            "precision": backend.dtype,
            "attention": backend.attention,
        }

    def tune(self, requests: Sequence[Request]) -> str:
        return ""

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        from reranker_serve.tools.in_process import in_order
        from reranker_serve.types import RerankRequest, RerankResult

        async def all_at_once() -> list[RerankResult]:
            asked = [RerankRequest(request.query, request.documents, raw_scores=True) for request in requests]
            return await asyncio.gather(*(self._reranker.rerank(request) for request in asked))

        return [in_order(result) for result in asyncio.run_coroutine_threadsafe(all_at_once(), self._loop).result()]


class OursInt8(Ours):
    quantization = "int8"


class OursFile:
    """`reranker-serve score` on a file with a line a pair, which is written before and read after."""

    half = True

    def __init__(self, folder: Path, kind: str, threads: int, max_length: int, device: str = "cpu") -> None:
        values = settings_of(folder, threads, max_length, None, device)
        self._values = values | {"RERANKER_USE_FP16": str(self.half)}

    def prepare(self) -> dict[str, str]:
        from reranker_serve.environment import load_settings
        from reranker_serve.tools.in_process import load_in_process

        self._settings, _ = load_settings(self._values, env_file=Path("/nonexistent"))
        self._scorer = load_in_process(self._settings)
        return versions("reranker-serve", "torch", "transformers") | {"precision": self._scorer.backend.dtype}

    def tune(self, requests: Sequence[Request]) -> str:
        return ""

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        from reranker_serve.api.options import Options
        from reranker_serve.tools.score.command import Job, score_file
        from reranker_serve.tools.score.files import source

        with TemporaryDirectory() as folder:
            pairs, scores = Path(folder, "pairs.jsonl"), Path(folder, "scores.jsonl")
            rows = [{"query": query, "document": document} for query, document in pairs_of(requests)]
            pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
            job = Job(source(pairs, "score"), scores, Options(raw_scores=True))
            assert score_file(job, self._scorer, self._settings) == 0
            return by_request([json.loads(line)["score"] for line in scores.open()], requests)


class OursFileFloat32(OursFile):
    half = False
