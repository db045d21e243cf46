"""Packing: all sequences of a batch in one row, no padding, each attending to itself alone.

Positions are given explicitly; the boundaries travel to the attention function (`attention.py`) with the layout.

Sequences that begin alike share that prefix: it lies in the row once, before them, and they
attend to it as if it were their own beginning:  `prefix | doc 1 | doc 2 | other prefix | doc 3`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reranker_serve.backends.torch.architectures import Architecture, reader
from reranker_serve.backends.torch.layout import Layout, to_device
from reranker_serve.readouts import HeadReadout, PooledReadout, Readout, VectorsReadout
from reranker_serve.types import EncodedItem, TokenArray

# How long the row of a batch is: its tokens, or more where few lengths are wanted; nobody's tokens fill it.
RowLength = Callable[[Layout], int]


def exact_length(layout: Layout) -> int:
    return layout.tokens


class PackedForward:
    """One forward pass over the items of a batch, packed, to rows in float32: [items, readout.width], or [vectors,
    readout.width] where vectors are read, one item's after the other's."""

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        readout: Readout,
        layers: nn.Module,
        row_length: RowLength = exact_length,
    ) -> None:
        self._base = model.base_model
        self._row_length = row_length
        self._read: Callable[[Tensor], Tensor] = reader(model, architecture, readout, layers)
        self._pooling = pooling(model, architecture, readout)
        # Vectors are compared in float32; a head takes what its weights are in.
        in_float32 = isinstance(readout, PooledReadout | HeadReadout | VectorsReadout)
        self._rows_dtype = torch.float32 if in_float32 else model.dtype
        self._causal = architecture.causal
        self._padding: int | None = model.config.pad_token_id if architecture.starts_after_padding else None
        self._token_types = (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        # Of the last layer only the rows that are read are computed, where these are few.
        self._last_rowwise: nn.Module | None = None
        if architecture.last_rowwise is not None and self._pooling in ("cls", "last"):
            self._last_rowwise = architecture.last_rowwise(self._base)

    def __call__(self, items: Sequence[EncodedItem]) -> Tensor:
        device = self._base.device
        layout = Layout.of(items, self._causal, device)
        row = _row(items, layout, self._padding, self._row_length(layout))
        ids, positions, types = to_device(row, device)[:, None]
        inputs: dict[str, Any] = {"input_ids": ids, "position_ids": positions}
        if self._token_types:
            inputs["token_type_ids"] = types
        if self._causal:
            inputs["use_cache"] = False
        last = self._last_rowwise
        with nullcontext() if last is None else only(last, _read_rows(items, layout, self._pooling, device)):
            hidden = self._base(**inputs, layout=layout).last_hidden_state[0]
        if self._pooling == "late":
            return _pool(self._read(hidden.to(self._rows_dtype)), items, layout, "mean")
        pooled = hidden if last is not None else _pool(hidden, items, layout, self._pooling)
        return self._read(pooled.to(self._rows_dtype)).float()


@contextmanager
def only(module: nn.Module, rows: Tensor) -> Iterator[None]:
    """Until it is left, `module` is given these rows of hidden states, of [1, tokens, hidden], and no others."""

    def choose(_: nn.Module, states: tuple[Tensor, ...], named: dict[str, Tensor]) -> Any:
        return tuple(part[:, rows] for part in states), {name: part[:, rows] for name, part in named.items()}

    handle = module.register_forward_pre_hook(choose, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def pooling(model: Any, architecture: Architecture, readout: Readout) -> str:
    """Which hidden states are read: `cls`, `mean`, `last`; `vectors`, those that an item says; `late`, the mean of what
    the head makes of each.

    Of the encoder classifiers only ModernBERT and EuroBERT declare it; the others read the first token.
    """
    if isinstance(readout, PooledReadout | HeadReadout):
        return readout.mode
    if isinstance(readout, VectorsReadout):
        return "vectors"
    if architecture.causal:
        return "last"
    declared = str(getattr(model.config, "classifier_pooling", "cls"))
    return "cls" if declared == "bos" else declared


def _row(items: Sequence[EncodedItem], layout: Layout, padding: int | None, length: int) -> NDArray[np.int64]:
    """Ids, positions (see `_positions`) and token types of the row, [3, length]."""
    ids, positions, types = row = np.zeros((3, length), dtype=np.int64)
    for item, place in zip(items, layout.places, strict=True):
        span = layout.spans[place]
        ids[span.start : span.stop] = item.ids
        positions[span.start : span.stop] = _positions(item.ids, span.prefix, padding)
        types[span.start + item.second_segment : span.stop] = 1
        if item.prefix is not None:
            ids[span.prefix_start : span.prefix_stop] = item.prefix
            positions[span.prefix_start : span.prefix_stop] = np.arange(span.prefix)
    return row


def _positions(ids: TokenArray, start: int, padding: int | None) -> NDArray[np.int64]:
    """From `start` on; or, as RoBERTa counts, from behind the `padding` id, all tokens of which stand on it."""
    if padding is None:
        return np.arange(start, start + len(ids))
    real = ids != padding
    positions: NDArray[np.int64] = padding + np.cumsum(real) * real
    return positions


def _pool(hidden: Tensor, items: Sequence[EncodedItem], layout: Layout, mode: str) -> Tensor:
    """[tokens, hidden] -> [items or vectors, hidden], in the items' order."""
    if mode == "mean":
        spans = [layout.spans[place] for place in layout.places]
        return torch.stack([hidden[span.start : span.stop].float().mean(0) for span in spans])
    return hidden[_read_rows(items, layout, mode, hidden.device)]


def _read_rows(items: Sequence[EncodedItem], layout: Layout, mode: str, device: torch.device) -> Tensor:
    """The rows that are read of each item, for the modes `cls`, `last` and `vectors`."""
    spans = [layout.spans[place] for place in layout.places]
    if mode == "vectors":
        read = [span.start + item.read for span, item in zip(spans, items, strict=True) if item.read is not None]
        return to_device(np.concatenate(read), device)
    rows = np.array([span.start if mode == "cls" else span.stop - 1 for span in spans])
    return to_device(rows, device)
