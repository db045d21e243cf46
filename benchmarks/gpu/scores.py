"""Loading as the server loads, raw scores, and how two lists of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker_serve.environment import load_settings
from reranker_serve.loader import load
from reranker_serve.settings import Settings
from reranker_serve.types import Scorer

Scores = NDArray[np.float64]


def settings_for(folder: Path, device: str, half: bool, **more: str) -> Settings:
    values = {"model_path": str(folder), "device": device, "use_fp16": str(half).lower(), "cache_entries": "0"}
    environ = {f"RERANKER_{name.upper()}": value for name, value in (values | more).items()}
    return load_settings(environ, env_file=Path("/nonexistent"))[0]


def scorer_of(folder: Path, device: str, half: bool) -> Scorer:
    return load(settings_for(folder, device, half, cpu_threads="2"))


def raw_scores(scorer: Scorer, query: str, documents: Sequence[str]) -> Scores:
    longest = scorer.family.max_length_bounds[1]
    encoded = scorer.family.encode(query, list(documents), max_length=longest, instruction=None)
    return np.asarray(scorer.family.combine(scorer.backend.forward(encoded.items)), dtype=np.float64)


def compared(got: Scores, expected: Scores) -> dict[str, float]:
    """`difference`: the greatest, over the greatest score or 1. `same_order`: the share of pairs of documents."""
    pairs = [(i, j) for i, j in combinations(range(len(expected)), 2) if expected[i] != expected[j]]
    same = sum((got[i] > got[j]) == (expected[i] > expected[j]) for i, j in pairs)
    scale = max(1.0, float(np.abs(expected).max()))
    return {
        "difference": float(np.abs(got - expected).max() / scale),
        "same_order": same / max(1, len(pairs)),
        "spread": float(np.ptp(expected)),
    }


def facts(scorer: Scorer) -> dict[str, Any]:
    backend = scorer.backend
    found = {"device": backend.device, "dtype": backend.dtype, "attention": backend.attention}
    return found | {"precision_note": scorer.info.precision_note, "cap": backend.batch_token_cap}
