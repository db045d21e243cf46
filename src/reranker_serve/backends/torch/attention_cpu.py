"""Attention of a packed batch on a CPU: one span after the other, but short ones of like length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from reranker_serve.backends.torch.attention_span import QUERY_BLOCK, attend_span
from reranker_serve.backends.torch.layout import Layout, Span

# A kernel is made for every new shape of a product, which takes a millisecond and most of a megabyte.
_LENGTH_STEP = 16
# Rows of scores of a span at a time where each sees a window only.
_WINDOW_BLOCK = 128
# So many spans in a product, the most first; of longer ones each has enough to compute by itself.
_TOGETHER = (64, 16, 4)
_LONGEST_TOGETHER = 96
# More scores at once would not fit a cache.
_SCORES_TOGETHER = 1 << 20
_WORD = torch.int64


def attend_per_segment(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, window: int | None
) -> Tensor:
    """As `Attention` says."""
    out = query.new_empty((query.shape[1], len(query), query.shape[2]))
    out[layout.tokens :] = 0  # nobody's rows must not hold what only looks like numbers
    own_keys = len(query) == len(key) and not layout.causal and not any(span.prefix for span in layout.spans)
    if query.dtype is not torch.float32 and own_keys:
        _attend_all(query, key, value, scale, layout, window, out)
    else:
        for span in layout.spans:
            attend_span(query, key, value, scale, span, layout, window, out)
    return out


def reach(layout: Layout) -> int:
    """Tokens of a row in which the last span, too, has one of the few lengths that attention is computed in."""
    last = layout.spans[-1]
    return last.start + _rounded(last.stop - last.start)


def _attend_all(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, window: int | None, out: Tensor
) -> None:
    """Each span to itself, in both directions, in products of few different shapes, into `out`."""
    whole: list[Span] = []
    alone: list[tuple[Span, int | None]] = []
    for span in layout.spans:
        if window is None or span.stop - span.start <= window:
            whole.append(span)
        elif span.unseen:  # some of its tokens may see nothing
            attend_span(query, key, value, scale, span, layout, window, out)
        else:
            alone.append((span, window))
    for length, spans in _like_lengths(whole).items():
        sizes = [size for size in _TOGETHER if size * len(query) * length**2 <= _SCORES_TOGETHER]
        for few in _groups(spans, sizes if length <= _LONGEST_TOGETHER else []):
            if len(few) == 1:
                alone += [(span, None) for span in few]
            else:
                at = window, few[0].start, len(few), length, len(query)
                make = partial(_Group.of, few, length, len(query), query.dtype)
                _attend_together(query, key, value, scale, layout.once(at, make), out)
    for span, narrow in sorted(alone, key=lambda one: -one[0].start):
        _attend_alone(query, key, value, scale, span, layout, narrow, out)


def _like_lengths(spans: Sequence[Span]) -> dict[int, list[Span]]:
    """By the length to which theirs is rounded up."""
    found: dict[int, list[Span]] = {}
    for span in spans:
        found.setdefault(_rounded(span.stop - span.start), []).append(span)
    return found


def _groups(spans: Sequence[Span], sizes: Sequence[int]) -> Iterator[Sequence[Span]]:
    """As many as one of `sizes`, the most first; what is left one by one."""
    start = 0
    for size in [*sizes, 1]:
        while len(spans) - start >= size:
            yield spans[start : start + size]
            start += size


@dataclass(frozen=True, slots=True)
class _Group:
    """Spans that attend in one product, each of up to `length` tokens: a shorter one's last token stands there again,
    hidden as a key.

    `rows`, [spans x length], are their places in the row; `mask`, [spans x heads, length, length], has -inf for hidden
    keys, else 0.
    """

    spans: int
    length: int
    rows: Tensor
    mask: Tensor

    @classmethod
    def of(cls, spans: Sequence[Span], length: int, heads: int, dtype: torch.dtype) -> _Group:
        starts, stops, keys = np.array([(span.start, span.stop, span.keys) for span in spans]).T[:, :, None]
        places = np.arange(length)
        rows = torch.from_numpy(np.minimum(starts + places, stops - 1).ravel())
        hidden = torch.from_numpy(places >= keys)[:, None, None]
        mask = torch.zeros(len(spans), heads, length, length, dtype=dtype).masked_fill_(hidden, float("-inf"))
        return cls(len(spans), length, rows, mask.flatten(0, 1))


def _attend_together(query: Tensor, key: Tensor, value: Tensor, scale: float, group: _Group, out: Tensor) -> None:
    heads, size = len(query), query.shape[-1]
    shape = group.spans, group.length, heads, size
    q, k, v = (_take(part, group.rows).view(shape).transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    scores = torch.baddbmm(group.mask, q, k.transpose(1, 2), alpha=scale)
    part = torch.bmm(torch.softmax(scores, dim=-1), v).view(group.spans, heads, group.length, size)
    _by_rows(out).index_copy_(0, group.rows, _by_rows(part.transpose(1, 2).flatten(0, 1)))


def _take(part: Tensor, rows: Tensor) -> Tensor:
    """Of [heads, tokens, size] these rows: [rows, heads x size]."""
    return _by_rows(part.transpose(0, 1)).index_select(0, rows).view(part.dtype)


def _by_rows(part: Tensor) -> Tensor:
    """[tokens, heads, size] as [tokens, heads x size], in numbers of eight bytes where that goes: whole rows of those
    are copied several times as fast."""
    flat = part.flatten(1)
    places = flat.storage_offset(), flat.stride(0), flat.shape[1]
    return flat if any(place * flat.itemsize % _WORD.itemsize for place in places) else flat.view(_WORD)


def _attend_alone(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    span: Span,
    layout: Layout,
    window: int | None,
    out: Tensor,
) -> None:
    """A span block by block, each with the keys that are in reach of its window.

    Rows and keys that are too many, as lengths are rounded up, are those of whoever comes next in the row. The keys
    are hidden, and their values set to zero, so that not even a NaN comes through: from the last span to the first,
    when nobody needs them any more.
    """
    start, keys = span.start, span.start + span.keys
    stop = min(start + _rounded(span.stop - start), query.shape[1])
    value[:, keys:stop] = 0
    step, sight = (QUERY_BLOCK, stop) if window is None else (_WINDOW_BLOCK, _rounded(window))
    for block in range(start, span.stop, step):
        end = min(block + step, stop)
        first, last = max(start, block - sight), min(stop, end + sight)
        mask = layout.mask(range(block - first, end - first), last - first, window, 1, query.dtype)
        part, near = query[:, block:end], key[:, first:last].transpose(1, 2)
        scores = torch.bmm(part * scale, near) if mask is None else torch.baddbmm(mask, part, near, alpha=scale)
        scores[:, :, max(0, keys - first) :] = float("-inf")
        rows = torch.bmm(torch.softmax(scores, dim=-1), value[:, first:last]).transpose(0, 1)
        out[block : min(end, span.stop)] = rows[: span.stop - block]


def _rounded(length: int) -> int:
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP
