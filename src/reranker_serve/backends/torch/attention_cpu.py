"""Attention of a packed batch on a CPU: one span after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from reranker_serve.backends.torch.attention_span import QUERY_BLOCK, attend_span
from reranker_serve.backends.torch.layout import Layout

# A kernel is made for every new shape of a product, which takes a millisecond and most of a megabyte.
_LENGTH_STEP = 16


def attend_per_segment(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, window: int | None
) -> Tensor:
    """As `Attention` says."""
    out = torch.empty_like(query.transpose(0, 1))
    out[layout.tokens :] = 0  # nobody's rows must not hold what only looks like numbers
    alone = len(query) == len(key)
    if query.dtype is not torch.float32 and alone and layout.sees_all(window):
        _attend_all(query, key, value, scale, layout, out)
    else:
        for span in layout.spans:
            attend_span(query, key, value, scale, span, layout, window, out)
    return out


def reach(layout: Layout) -> int:
    """Tokens of a row in which the last span, too, has one of the few lengths that attention is computed in."""
    last = layout.spans[-1]
    return last.start + _rounded(last.stop - last.start)


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
