"""Packing: all sequences of a batch in one row, no padding, each attending to itself alone.

One attention function is registered with transformers, so every model that goes through its
attention interface runs packed without model code of ours. Positions are given explicitly,
and the boundaries travel to the attention function as a keyword of the model's forward.

Sequences that begin alike share that prefix: it lies in the row once, before them, and they
attend to it as if it were their own beginning:  `prefix | doc 1 | doc 2 | other prefix | doc 3`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from reranker_serve.backends.architectures import Architecture, reader
from reranker_serve.backends.layout import Layout, Span, to_device
from reranker_serve.readouts import HeadReadout, PooledReadout, Readout, VectorsReadout
from reranker_serve.types import EncodedItem, TokenArray

ATTENTION = "reranker_packed"

# Rows of scores computed at a time: the scores of 8,192 tokens with themselves would not fit a cache,
# nor with 16 heads in 2 GB.
QUERY_BLOCK = 1024
# Of a span with so many keys or more it is fewer rows, for the same number of scores.
_FULL_BLOCK_KEYS = 8192

# A kernel is made for every new shape of a product, which takes a millisecond and most of a megabyte.
_LENGTH_STEP = 16


def register() -> None:
    """Make the attention known to transformers under the name `ATTENTION`."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _no_mask)


def can_pack(model: Any) -> bool:
    """Whether the model's attention goes through the interface.

    The others only warn when told to use it, go on with their own attention, and would
    silently let sequences see each other.
    """
    return bool(model._can_set_attn_implementation())


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    layout: Layout,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each span to its prefix and itself.

    `query` is [1, heads, tokens, head_dim], `key` and `value` may have fewer heads, each for
    as many query heads in a row; returns [1, tokens, heads, head_dim]. `value` may be overwritten.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cuda":
        return _varlen(query, key, value, scale, layout, sliding_window), None
    out = torch.empty_like(query.transpose(1, 2))
    out[:, layout.spans[-1].stop :] = 0  # nobody's rows must not hold what only looks like numbers
    alone = query.shape[1] == key.shape[1]
    if query.dtype is not torch.float32 and alone and layout.sees_all(sliding_window):
        _attend_all(query[0], key[0], value[0], scale, layout, out[0])
        return out, None
    for span in layout.spans:
        _attend_span(query[0], key[0], value[0], scale, span, layout, sliding_window, out[0])
    return out, None


def _attend_span(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    span: Span,
    layout: Layout,
    window: int | None,
    out: Tensor,
) -> None:
    """A span to its prefix and itself, into its rows of `out`; the rest is [heads, tokens, head_dim]."""
    k, v = (_with_prefix(part, span) for part in (key, value))
    sharing = query.shape[0] // key.shape[0]
    block = max(1, QUERY_BLOCK * _FULL_BLOCK_KEYS // max(_FULL_BLOCK_KEYS, span.keys))
    for start in range(span.start, span.stop, block):
        stop = min(start + block, span.stop)
        rows = range(span.prefix + start - span.start, span.prefix + stop - span.start)
        seen = rows.stop if layout.causal else k.shape[1]
        mask = layout.mask(rows, seen, window, sharing, query.dtype)
        part = _attend(query[:, start:stop], k[:, :seen], v[:, :seen], scale, mask, blind=span.unseen > 0)
        out[start:stop] = part.transpose(0, 1)


def _attend_all(query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, out: Tensor) -> None:
    """Each span to all it may see of itself and nothing else, in products of few different shapes, into `out`.

    Lengths are rounded up: the rows and keys too many are those of whoever comes next in the
    row. The keys are hidden, and their values set to zero, so that not even a NaN comes
    through: from the last span to the first, when nobody needs them any more.
    """
    tokens = query.shape[1]
    for span in reversed(layout.spans):
        start, length = span.start, span.stop - span.start
        stop = min(start + _rounded(length), tokens)
        keys, values = key[:, start:stop].transpose(1, 2), value[:, start:stop]
        values[:, span.keys :] = 0
        for block in range(start, span.stop, QUERY_BLOCK):
            end = min(block + QUERY_BLOCK, stop)
            scores = torch.bmm(query[:, block:end] * scale, keys)
            scores[:, :, span.keys :] = float("-inf")
            part = torch.bmm(torch.softmax(scores, dim=-1), values).transpose(0, 1)
            end = min(end, span.stop)
            out[block:end] = part[: end - block]


def _rounded(length: int) -> int:
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP


def _with_prefix(part: Tensor, span: Span) -> Tensor:
    """[heads, tokens, head_dim] of the row -> what the span attends to."""
    own = part[:, span.start : span.seen]
    return torch.cat([part[:, span.prefix_start : span.prefix_stop], own], dim=1) if span.prefix else own


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, blind: bool) -> Tensor:
    """[heads, rows, head_dim] queries to the same shape.

    Query heads that share a key head become rows of one product, so nothing is repeated;
    `mask` is added to their scores, [these rows, keys]. With `blind` it may hide all from a row, which becomes zeros.
    """
    shape = q.shape
    q = q.reshape(k.shape[0], -1, shape[-1])
    if q.dtype is torch.float32 or blind:
        out = scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, scale=scale)[0]
    else:
        # In bfloat16 on a CPU two plain products are up to 3 times faster than the fused kernel.
        keys = k.transpose(1, 2)
        scores = torch.bmm(q * scale, keys) if mask is None else torch.baddbmm(mask, q, keys, alpha=scale)
        out = torch.bmm(torch.softmax(scores, dim=-1), v)
    return out.reshape(shape)


def _varlen(query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    if layout.keys is not None:
        k, v = k[layout.keys], v[layout.keys]
    if k.shape[1] != q.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
    # Queries are aligned with the last keys, as positions after a prefix are; those of unseen tokens are not.
    out = varlen_attn(
        q,
        k,
        v,
        layout.query_bounds,
        layout.key_bounds,
        *layout.longest,
        scale=scale,
        window_size=(reach, 0 if layout.causal else reach),
    )
    assert isinstance(out, Tensor)
    for span in layout.shifted(window):
        _attend_span(query[0], key[0], value[0], scale, span, layout, window, out)
    return out[None]


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout takes the place of masks."""


class PackedForward:
    """One forward pass over the items of a batch, packed, to rows in float32: [items, readout.width], or [vectors,
    readout.width] where vectors are read, one item's after the other's."""

    def __init__(self, model: Any, architecture: Architecture, readout: Readout, layers: nn.Module) -> None:
        # The length of a row for so many tokens, where few lengths are wanted; nobody's tokens fill it.
        self.row_count: Callable[[int], int] | None = None
        self._base = model.base_model
        self._read: Callable[[Tensor], Tensor] = reader(model, architecture, readout, layers)
        self._pooling = pooling(model, architecture, readout)
        # Vectors are compared in float32; a head takes what its weights are in.
        in_float32 = isinstance(readout, PooledReadout | HeadReadout | VectorsReadout)
        self._rows_dtype = torch.float32 if in_float32 else model.dtype
        self._causal = architecture.causal
        self._padding: int | None = model.config.pad_token_id if architecture.starts_after_padding else None
        self._token_types = (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        # Of the last layer only the rows that are read are computed, where these are few.
        self._read_alone = architecture.last_rowwise is not None and self._pooling in ("cls", "last")
        self._rows: Tensor | None = None
        if architecture.last_rowwise is not None and self._read_alone:
            module = architecture.last_rowwise(self._base)
            module.register_forward_pre_hook(self._keep_rows, with_kwargs=True)

    def __call__(self, items: Sequence[EncodedItem]) -> Tensor:
        device = self._base.device
        layout = Layout.of(items, self._causal, device)
        row = _row(items, layout, self._padding, self._length(layout))
        ids, positions, types = to_device(row, device)[:, None]
        inputs: dict[str, Any] = {"input_ids": ids, "position_ids": positions}
        if self._token_types:
            inputs["token_type_ids"] = types
        if self._causal:
            inputs["use_cache"] = False
        if self._read_alone:
            self._rows = _read_rows(items, layout, self._pooling, device)
        try:
            hidden = self._base(**inputs, layout=layout).last_hidden_state[0]
        finally:
            self._rows = None
        if self._pooling == "late":
            return _pool(self._read(hidden.to(self._rows_dtype)), items, layout, "mean")
        pooled = hidden if self._read_alone else _pool(hidden, items, layout, self._pooling)
        return self._read(pooled.to(self._rows_dtype)).float()

    def _length(self, layout: Layout) -> int:
        """Tokens of the row: so many that the last span, too, has a length of the few that attention is computed in."""
        last = layout.spans[-1]
        return self.row_count(last.start + _rounded(last.stop - last.start)) if self.row_count else last.stop

    def _keep_rows(self, _: nn.Module, states: tuple[Tensor, ...], named: dict[str, Tensor]) -> Any:
        """Before the module from which on rows are computed by themselves."""
        rows = self._rows
        if rows is None:
            return states, named
        return tuple(part[:, rows] for part in states), {name: part[:, rows] for name, part in named.items()}


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
