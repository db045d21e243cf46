"""Attention of one span in torch's plain operators, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reranker_serve.backends.torch.layout import Layout, Span

# Rows of scores computed at a time: the scores of 8,192 tokens with themselves would not fit a cache,
# nor with 16 heads in 2 GB.
QUERY_BLOCK = 1024
# Of a span with so many keys or more it is fewer rows, for the same number of scores.
_FULL_BLOCK_KEYS = 8192


def attend_span(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    span: Span,
    layout: Layout,
    window: int | None,
    out: Tensor,
) -> None:
    """A span to its prefix and itself, into its rows of `out`, [tokens, heads, head_dim]; else as `Attention` says."""
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
