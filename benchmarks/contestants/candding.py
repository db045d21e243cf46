"""candding: the models of text-embeddings-inference's CPU build, on candle. It knows published names alone.

So the folder is laid into a cache of the hub's under the name of the model whose shape it has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import versions
from benchmarks.contestants.reference import PairwiseRuntime
from benchmarks.pairs import Request

_PUBLISHED = {
    "minilm-l6": "cross-encoder/ms-marco-MiniLM-L6-v2",
    "xlm-r-base": "BAAI/bge-reranker-base",
    "xlm-r-large": "BAAI/bge-reranker-v2-m3",
    "qwen3-0.6b": "Qwen/Qwen3-Reranker-0.6B",
}


class Candding(PairwiseRuntime):
    """A request at a time, as no call takes several queries; its documents by length."""

    kinds = ("cross_encoder", "yes_no")

    def prepare(self) -> dict[str, str]:
        name = _PUBLISHED.get(self.folder.name)
        if name is None:
            raise RuntimeError("does not serve this shape: it has no such model")
        cache = self.folder / "hub"
        _lay_into(cache, name, self.folder)
        os.environ |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "RAYON_NUM_THREADS": str(self.threads)}
        import candding

        self._model: Any = candding.TextCrossEncoder(name, device="cpu", max_length=self.max_length)
        return versions("candding") | {"precision": "float32"}

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        return [self._rerank(request) for request in requests]

    def _rerank(self, request: Request) -> list[float]:
        order = sorted(range(len(request.documents)), key=lambda i: len(request.documents[i]), reverse=True)
        found = self._model.rerank(request.query, [request.documents[i] for i in order], batch_size=self.size)
        scores = {order[index]: score for index, score in found}
        return [scores[i] for i in range(len(order))]


def _lay_into(cache: Path, name: str, folder: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    model, revision = cache / f"models--{name.replace('/', '--')}", "0" * 40
    snapshot = model / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    for file in folder.iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
