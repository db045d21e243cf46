"""How the sequences of a packed batch attend: one function for a device, chosen when a model is loaded.

It is registered with transformers, so every model that goes through transformers' attention interface runs packed
without model code of ours. The layout comes to it as a keyword of the model's forward.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from reranker_serve.backends.torch.attention_cpu import attend_per_segment
from reranker_serve.backends.torch.layout import Layout


class Attention(Protocol):
    """Attention of each span of a layout to its prefix and itself.

    `query` is [heads, tokens, head_dim], `key` and `value` may have fewer heads, each for as many query heads in a
    row; returns [tokens, heads, head_dim]. Of a row that is longer than the layout (`RowLength`) the rest becomes 0.
    `window` w: a token sees those less than w away. `value` may be overwritten.
    """

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, window: int | None
    ) -> Tensor: ...


def choose_attention(device: str) -> tuple[str, Attention]:
    """What a device attends with, and its name in `/info`."""
    if device.startswith("cuda"):
        from reranker_serve.backends.torch.attention_varlen import attend_varlen  # whose kernel only a GPU has

        return "varlen", attend_varlen
    return "per segment", attend_per_segment


def takes_attention(model: Any) -> bool:
    """Whether the model's attention goes through the interface.

    The others only warn when told to use it, go on with their own attention, and would
    silently let sequences see each other.
    """
    return bool(model._can_set_attn_implementation())


def use_attention(model: Any, name: str, attention: Attention) -> None:
    """Have all layers of `model` attend so; a name stands for one function in the whole process."""

    def attend(
        module: nn.Module,
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
        """Of one row, as transformers calls it: [1, heads, tokens, head_dim] -> [1, tokens, heads, head_dim]."""
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attention(query[0], key[0], value[0], scale, layout, sliding_window)[None], None

    registered = f"reranker {name}"
    ALL_ATTENTION_FUNCTIONS.register(registered, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(registered, _no_mask)
    model.set_attn_implementation(registered)


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout takes the place of masks."""
