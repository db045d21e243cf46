"""Packing: all sequences of a batch in one row, no padding, each attending to itself alone.

One attention function is registered with transformers, so every model that goes through its
attention interface runs packed without model code of ours. Positions are given explicitly,
and the boundaries travel to the attention function as a keyword of the model's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from reranker_serve.backends.architectures import Architecture
from reranker_serve.types import EncodedItem, PooledReadout, Readout

ATTENTION = "reranker_packed"


@dataclass(frozen=True, slots=True)
class Segments:
    """Where each sequence lies in the row: `bounds` has one entry more than sequences."""

    bounds: tuple[int, ...]
    cu_seqlens: Tensor
    longest: int

    @classmethod
    def of(cls, items: Sequence[EncodedItem], device: torch.device) -> Segments:
        bounds = tuple(accumulate((len(item) for item in items), initial=0))
        cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device=device)
        return cls(bounds, cu_seqlens, max(len(item) for item in items))


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
    segments: Segments,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each segment.

    `query`, `key`, `value` are [1, heads, tokens, head_dim]; returns [1, tokens, heads,
    head_dim]. `sliding_window` w means that i attends to j where |i - j| < w.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cuda":
        return _varlen(query, key, value, scale, segments, sliding_window), None
    out = torch.empty_like(query.transpose(1, 2))
    for start, stop in pairwise(segments.bounds):
        q, k, v = (part[0, :, start:stop] for part in (query, key, value))
        out[0, start:stop] = _one_segment(q, k, v, scale, sliding_window).transpose(0, 1)
    return out, None


def _one_segment(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """[heads, length, head_dim] of one sequence to the same shape."""
    length = q.shape[1]
    band = _band(length, window, q.device) if window is not None and length > window else None
    if q.dtype is torch.float32:
        mask = None if band is None else ~band
        return scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, scale=scale)[0]
    # In bfloat16 on a CPU two plain products are up to 3 times faster than the fused kernel.
    scores = torch.bmm(q * scale, k.transpose(1, 2))
    if band is not None:
        scores.masked_fill_(band, float("-inf"))
    return torch.bmm(torch.softmax(scores, dim=-1), v)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """[length, length], True where attention is not allowed."""
    position = torch.arange(length, device=device)
    return (position[:, None] - position[None, :]).abs() >= window


def _varlen(query: Tensor, key: Tensor, value: Tensor, scale: float, segments: Segments, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = (-1, -1) if window is None else (window - 1, window - 1)
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    cu, longest = segments.cu_seqlens, segments.longest
    out = varlen_attn(q, k, v, cu, cu, longest, longest, scale=scale, window_size=reach)
    assert isinstance(out, Tensor)
    return out[None]


def _no_mask(*_: Any, **__: Any) -> None:
    """Segments take the place of masks."""


class PackedForward:
    """One forward pass over the items of a batch, packed: [items, readout.width] in float32."""

    def __init__(self, model: Any, architecture: Architecture, readout: Readout) -> None:
        self._model = model
        self._base = model.base_model
        self._architecture = architecture
        self._pooled = isinstance(readout, PooledReadout)
        # Of the classifiers only ModernBERT declares what its head reads; the others read the first token.
        self._pooling = readout.mode if isinstance(readout, PooledReadout) else _classifier_pooling(model)
        self._first_position = model.config.pad_token_id + 1 if architecture.starts_after_padding else 0
        self._token_types = (getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def __call__(self, items: Sequence[EncodedItem]) -> Tensor:
        device = self._base.device
        segments = Segments.of(items, device)
        ids = np.concatenate([item.ids for item in items])
        positions = np.concatenate([np.arange(len(item), dtype=np.int64) for item in items])
        inputs = {
            "input_ids": torch.from_numpy(ids.astype(np.int64))[None].to(device),
            "position_ids": torch.from_numpy(positions + self._first_position)[None].to(device),
        }
        if self._token_types:
            inputs["token_type_ids"] = torch.from_numpy(_types(items))[None].to(device)
        hidden = self._base(**inputs, segments=segments).last_hidden_state[0]
        return self._read(hidden, segments).float()

    def _read(self, hidden: Tensor, segments: Segments) -> Tensor:
        rows = _pool(hidden, segments, self._pooling)
        return rows if self._pooled else self._architecture.head(self._model, rows.to(hidden.dtype)[:, None])


def _classifier_pooling(model: Any) -> str:
    return str(getattr(model.config, "classifier_pooling", "cls"))


def _pool(hidden: Tensor, segments: Segments, mode: str) -> Tensor:
    """[tokens, hidden] -> [segments, hidden]."""
    bounds = segments.cu_seqlens.long()
    if mode == "cls":
        return hidden[bounds[:-1]]
    if mode == "last":
        return hidden[bounds[1:] - 1]
    lengths = bounds.diff()
    return torch.segment_reduce(hidden.float(), "mean", lengths=lengths)


def _types(items: Sequence[EncodedItem]) -> Any:
    parts = []
    for item in items:
        types = np.zeros(len(item), dtype=np.int64)
        types[item.second_segment :] = 1
        parts.append(types)
    return np.concatenate(parts)
