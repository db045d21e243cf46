"""Random LoRA adapters in peft's layout, and the whole models that they make of their bases."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from reranker_serve.types import Scorer

RANK, ALPHA = 4, 6
PAIR = ("how do plants make food", ["sun light water", "the stock market fell", "bread of yeast and sugar"])

Tensors = dict[str, NDArray[np.float32]]


def save_adapter(
    folder: Path, base: Path | str, layers: dict[str, tuple[int, int]], saved: Tensors | None = None, **config: Any
) -> Path:
    """An adapter of `base` on linear layers, each with its [out, in]; `saved` are parameters it has itself."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    tensors = {f"base_model.model.{name}": value for name, value in (saved or {}).items()}
    for name, (rows, columns) in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = random.normal(0, 0.3, (RANK, columns)).astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = random.normal(0, 0.3, (rows, RANK)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    written = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": ALPHA,
        "bias": "none",
        "use_rslora": False,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "modules_to_save": sorted({name.split(".")[0] for name in saved or {}}) or None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written | config))
    return folder


def save_merged(folder: Path, base: Path, adapter: Path, scale: float, **config: Any) -> Path:
    """The model that they are together, as a checkpoint of its own: W + scale * B A, summed rank by rank."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("adapter_*"))
    changes = {
        name.removeprefix("base_model.model."): value.astype(np.float64)
        for name, value in load_file(adapter / "adapter_model.safetensors").items()
    }
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        if ".lora_" not in name:
            tensors[name] = value.astype(np.float32)
        elif name.endswith("lora_A.weight"):
            up = changes[name.replace("lora_A", "lora_B")]
            change = sum(np.outer(up[:, rank], value[rank]) for rank in range(RANK))
            weight = name.replace("lora_A.", "")
            tensors[weight] = (tensors[weight] + scale * change).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def scale(rslora: bool = False) -> float:
    return ALPHA / math.sqrt(RANK) if rslora else ALPHA / RANK


def raw_scores(scorer: Scorer) -> NDArray[np.float32]:
    query, documents = PAIR
    longest = scorer.family.max_length_bounds[1]
    items = scorer.family.encode(query, documents, max_length=longest, instruction=None).items
    return scorer.family.combine(scorer.backend.forward(items))
