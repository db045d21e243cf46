"""fastembed's cross-encoder, given the model that was exported for ONNX Runtime."""

from __future__ import annotations

from typing import Any

from benchmarks.contestants import versions
from benchmarks.contestants.reference import PairwiseRuntime
from benchmarks.pairs import Pair

_NAME = "measured"


class FastEmbed(PairwiseRuntime):
    def prepare(self) -> dict[str, str]:
        from fastembed.common.model_description import ModelSource
        from fastembed.rerank.cross_encoder import TextCrossEncoder

        TextCrossEncoder.add_custom_model(_NAME, ModelSource(hf=_NAME), model_file="onnx/model.onnx")
        self._model: Any = TextCrossEncoder(
            _NAME,
            threads=self.threads,
            providers=["CPUExecutionProvider"],
            specific_model_path=str(self.folder),
        )
        return versions("fastembed", "onnxruntime") | {"precision": "float32"}

    def classify(self, batch: list[Pair]) -> list[float]:
        return list(self._model.rerank_pairs(batch, batch_size=len(batch)))
