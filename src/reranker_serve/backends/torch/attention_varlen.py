"""Attention of a packed batch on a GPU: all spans in one call of torch's kernel for sequences of any lengths."""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from reranker_serve.backends.torch.attention_span import attend_span
from reranker_serve.backends.torch.layout import Layout


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, window: int | None
) -> Tensor:
    """As `Attention` says; the row is as long as the layout."""
    reach = -1 if window is None else window - 1
    q, k, v = (part.transpose(0, 1).contiguous() for part in (query, key, value))
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
        attend_span(query, key, value, scale, span, layout, window, out)
    return out
