"""Who is measured: one small class each, in a process of its own.

Each is built as `Class(folder, kind, threads, max_length)`; `prepare()` loads the model and
tells versions, `tune(requests)` may choose the best batch size for such requests, and
`score(requests)` gives one raw score (logit, cosine) a document. Modules here import their
libraries inside functions, for they run in different environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from benchmarks.pairs import Request


class Contestant(Protocol):
    def prepare(self) -> dict[str, str]: ...

    def tune(self, requests: Sequence[Request]) -> str: ...

    def score(self, requests: Sequence[Request]) -> list[list[float]]: ...


# name -> module and class
CONTESTANTS = {
    "ours": ("ours", "Ours"),
    "ours-int8": ("ours", "OursInt8"),
    "ours-file": ("ours", "OursFile"),
    "ours-fp32-file": ("ours", "OursFileFloat32"),
    "sentence-transformers": ("reference", "SentenceTransformers"),
    "sentence-transformers-bf16": ("reference", "SentenceTransformersBfloat16"),
    "transformers": ("reference", "Transformers"),
    "exact": ("reference", "Exact"),
    "onnx": ("onnx", "Onnx"),
    "onnx-int8": ("onnx", "OnnxInt8"),
    "openvino-bf16": ("openvino", "OpenVino"),
    "openvino-int8": ("openvino", "OpenVinoInt8"),
    "fastembed": ("fastembed", "FastEmbed"),
    "candding": ("candding", "Candding"),
}


def build(name: str, folder: Path, kind: str, threads: int, max_length: int) -> Contestant:
    module, class_name = CONTESTANTS[name]
    kind_of: type[Contestant] = getattr(import_module(f"benchmarks.contestants.{module}"), class_name)
    return kind_of(folder, kind, threads, max_length)  # type: ignore[call-arg]


def versions(*names: str) -> dict[str, str]:
    """Of those that are installed: a source tree can be measured as it is."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
