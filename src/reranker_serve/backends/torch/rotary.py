"""Rotary positions of ModernBERT, a fifth of a pass of its small shapes as transformers computes them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_ATTENTION = "ModernBertAttention"  # not imported: it would be for every model


def rotate_together(model: nn.Module) -> None:
    """Have attention rotate queries and keys together, in their own precision and four passes over memory.

    transformers rotates one after the other, in float32: in half precision that is some twenty passes. Other
    architectures are left as they are.
    """
    for module in model.modules():
        if type(module).__name__ == _ATTENTION:
            module.forward = partial(_attend, module)  # of this one alone: its class is everyone's


def rotate_as_before(model: nn.Module) -> None:
    """Undo `rotate_together`."""
    for module in model.modules():
        if type(module).__name__ == _ATTENTION:
            module.__dict__.pop("forward", None)


def _attend(
    module: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """As the module's own forward for inference."""
    qkv = module.Wqkv(hidden_states).unflatten(-1, (3, -1, module.head_dim))
    query, key = _rotated(qkv[..., :2, :, :], *position_embeddings).transpose(1, 3).unbind(2)
    attend = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]
    out, _ = attend(
        module,
        query,
        key,
        qkv[..., 2, :, :].transpose(1, 2),
        attention_mask,
        dropout=0.0,
        scaling=module.head_dim**-0.5,
        sliding_window=module.sliding_window,
        **named,
    )
    return module.Wo(out.flatten(2)), None


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[batch, tokens, 2, heads, size], each size turned by the angles of its token; `cos` and `sin` are [batch, tokens,
    size], of which the halves are equal."""
    half = states.shape[-1] // 2
    first, second = states[..., :half], states[..., half:]
    cos, sin = (part[:, :, None, None, :half] for part in (cos, sin))
    out = torch.empty_like(states, memory_format=torch.contiguous_format)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out
