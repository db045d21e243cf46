"""Language models that read a text in both directions: published with code of their own, which is not needed.

The weights are those of the ordinary model; what differs is that no token is hidden from another.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig

from reranker_serve.checkpoint import Checkpoint


def ordinary_config(checkpoint: Checkpoint) -> LlamaConfig | None:
    """The configuration that transformers' own class takes in the place of the published one; None for all others."""
    if checkpoint.config.get("model_type") != "llama_bidirec":
        return None
    left_out = ("auto_map", "model_type", "architectures")
    values = {name: value for name, value in checkpoint.config.items() if name not in left_out}
    return LlamaConfig(**values | {"is_causal": False, "use_cache": False})


def read_both_ways(model: Any) -> None:
    """Attention is told, too: without padding there is no mask, and it would take its own word for causal."""
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
