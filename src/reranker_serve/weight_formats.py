"""Which formats of weights there are, told by the names of files; safetensors is the one that is read."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

_NOT_WEIGHTS = (
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state*.pth",
    "*/*.bin",
    "consolidated*",
)
_OTHER = (
    (
        ("*.bin", "*.pt", "*.pth", "*.ckpt"),
        "pickled weights only, which can run code when loaded: use a version of the model with model.safetensors, or"
        " convert it with transformers' save_pretrained",
    ),
    (
        ("*.gguf",),
        "GGUF weights only, which are llama.cpp's: use the model that they were made from, with model.safetensors,"
        " or serve these with llama.cpp",
    ),
    (
        ("*.onnx", "*/*.onnx"),
        "ONNX weights only: use the model that they were exported from, with model.safetensors",
    ),
    (
        ("openvino*.xml", "openvino/*.xml"),
        "OpenVINO weights only: use the model that they were exported from, with model.safetensors",
    ),
    (
        ("*.h5", "*.msgpack"),
        "TensorFlow or Flax weights only: use a version of the model with model.safetensors, or convert it with"
        " transformers' save_pretrained",
    ),
)
NO_WEIGHTS = "no weights: model.safetensors is missing"


def unreadable(names: Iterable[str]) -> str | None:
    """What a model of these files has in the place of safetensors, and what to do; None where it has them.

    `names` are relative to the model's folder; weights are those beside its `config.json`.
    """
    found = [name for name in names if not _is_any(name, _NOT_WEIGHTS)]
    if any(name.endswith(".safetensors") and "/" not in name for name in found):
        return None
    for patterns, said in _OTHER:
        if any(_is_any(name, patterns) for name in found):
            return said
    return NO_WEIGHTS


def _is_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
