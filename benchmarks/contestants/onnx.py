"""ONNX Runtime: the checkpoint exported once, in float32 and with dynamic int8 quantization.

`python -m benchmarks.contestants.onnx FOLDER` exports it for who cannot do so itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.contestants import versions
from benchmarks.contestants.reference import PairwiseRuntime
from benchmarks.contestants.whole_model import whole_model


def export(folder: Path) -> Path:
    """`onnx/model.onnx` beside the checkpoint, made if it is not there yet."""
    path = folder / "onnx" / "model.onnx"
    if path.exists():
        return path
    import torch

    model, examples = whole_model(folder)
    path.parent.mkdir(exist_ok=True)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    with torch.inference_mode():
        torch.onnx.export(
            model,
            tuple(examples.values()),
            str(path),
            input_names=list(examples),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(examples, free),
            dynamo=True,
            verbose=False,
        )
    return path


class Onnx(PairwiseRuntime):
    def prepare(self) -> dict[str, str]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self._session: Any = onnxruntime.InferenceSession(str(self.graph()), options, ["CPUExecutionProvider"])
        self.load_tokenizer()
        return versions("onnxruntime", "transformers") | {"precision": self.precision}

    precision = "float32"

    def graph(self) -> Path:
        return export(self.folder)

    def forward(self, inputs: dict[str, Any]) -> list[float]:
        logits: list[float] = self._session.run(None, inputs)[0][:, 0].tolist()
        return logits


class OnnxInt8(Onnx):
    """`quantize_dynamic` with its defaults."""

    precision = "int8 dynamic"

    def graph(self) -> Path:
        exported = export(self.folder)
        path = exported.with_name("model-int8.onnx")
        if not path.exists():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(exported, path, weight_type=QuantType.QInt8, use_external_data_format=True)
        return path


if __name__ == "__main__":
    export(Path(sys.argv[1]))
