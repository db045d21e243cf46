"""OpenVINO: the checkpoint converted once, in bfloat16 and quantized to int8 with NNCF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contestants import versions
from benchmarks.contestants.reference import PairwiseRuntime
from benchmarks.contestants.whole_model import whole_model

# Of post-training quantization; texts of several lengths.
_CALIBRATION = [f"the light of the sun number {i} " * (1 + i % 12) for i in range(48)]


def convert(folder: Path) -> Path:
    """`openvino/model.xml` beside the checkpoint, made if it is not there yet. From torch: attention stays one step."""
    path = folder / "openvino" / "model.xml"
    if path.exists():
        return path
    import openvino

    model, examples = whole_model(folder)
    converted = openvino.convert_model(model, example_input=examples)
    path.parent.mkdir(exist_ok=True)
    openvino.save_model(converted, path, compress_to_fp16=False)
    return path


class OpenVino(PairwiseRuntime):
    precision = "bfloat16"

    def prepare(self) -> dict[str, str]:
        import openvino

        self.load_tokenizer()
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: Any = openvino.Core().compile_model(str(self.graph()), "CPU", hints)
        used = str(self._compiled.get_property("INFERENCE_PRECISION_HINT"))
        return versions("openvino", "transformers") | {"precision": self.precision, "hint in use": used}

    def graph(self) -> Path:
        return convert(self.folder)

    def forward(self, inputs: dict[str, Any]) -> list[float]:
        logits: list[float] = self._compiled(inputs)[0][:, 0].tolist()
        return logits


class OpenVinoInt8(OpenVino):
    """Weights and activations by NNCF's post-training quantization for transformers; the rest in bfloat16."""

    precision = "int8 (NNCF)"

    def graph(self) -> Path:
        path = self.folder / "openvino" / "model-int8.xml"
        if not path.exists():
            import nncf
            import openvino

            samples = [dict(self._tokenizer("plants", text, return_tensors="np")) for text in _CALIBRATION]
            quantized = nncf.quantize(
                openvino.Core().read_model(convert(self.folder)),
                nncf.Dataset(samples),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(samples),
            )
            openvino.save_model(quantized, path, compress_to_fp16=False)
        return path
