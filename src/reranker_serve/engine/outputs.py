"""What a backend gives for items: a row of numbers for each, or vectors at the positions that are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reranker_serve.errors import BackendError
from reranker_serve.types import EncodedItem, Outputs


def zeros(items: Sequence[EncodedItem], width: int) -> Outputs:
    """Those of a row of `width` numbers an item, or of vectors, which take no memory."""
    vectors = [np.broadcast_to(np.float32(0), shape) for item in items if len(shape := _shape(item, width)) == 2]
    return vectors or np.zeros((len(items), width), dtype=np.float32)


def check_shapes(outputs: Outputs, items: Sequence[EncodedItem], width: int) -> None:
    """Raises `BackendError` unless each item has numbers of its shape."""
    due = [_shape(item, width) for item in items]
    shapes = [np.shape(output) for output in outputs]
    if len(shapes) != len(due):
        raise BackendError(f"the backend returned numbers for {len(shapes)} items where {len(due)} were due")
    for shape, expected in zip(shapes, due, strict=True):
        if shape != expected:
            raise BackendError(f"the backend returned numbers of shape {shape} where {expected} was due")


def _shape(item: EncodedItem, width: int) -> tuple[int, ...]:
    return (width,) if item.read is None else (len(item.read), width)
