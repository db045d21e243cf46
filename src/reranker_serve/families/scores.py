"""Raw scores to relevance, for the families whose relevance is a probability."""

from __future__ import annotations

import numpy as np

from reranker_serve.types import FloatArray


def sigmoid(raw: FloatArray) -> FloatArray:
    """1 / (1 + exp(-raw)), computed in float64, same shape."""
    with np.errstate(over="ignore"):
        return (1.0 / (1.0 + np.exp(-raw.astype(np.float64)))).astype(np.float32)
