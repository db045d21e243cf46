"""Checkpoints in the layouts that repositories with code of their own publish, made from those of native classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FLASH_NAMES = (
    (r"^roberta\.embeddings\.LayerNorm\.", "roberta.emb_ln."),
    (r"\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r".encoder.layers.\1.mixer.out_proj."),
    (r"\.encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r".encoder.layers.\1.norm1."),
    (r"\.encoder\.layer\.(\d+)\.attention\.self\.", r".encoder.layers.\1.mixer."),
    (r"\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r".encoder.layers.\1.mlp.fc1."),
    (r"\.encoder\.layer\.(\d+)\.output\.dense\.", r".encoder.layers.\1.mlp.fc2."),
    (r"\.encoder\.layer\.(\d+)\.output\.LayerNorm\.", r".encoder.layers.\1.norm2."),
)
NEW_NAMES = (
    (r"^gte\.", "new."),
    (r"^(new\.)layers\.(\d+)\.self_attn\.", r"\1encoder.layer.\2.attention."),
    (r"^(new\.)layers\.(\d+)\.post_attention_layernorm\.", r"\1encoder.layer.\2.attn_ln."),
    (r"^(new\.)layers\.(\d+)\.post_mlp_layernorm\.", r"\1encoder.layer.\2.mlp_ln."),
    (r"^(new\.)layers\.", r"\1encoder.layer."),
)


def as_flash_xlm_roberta(folder: Path, **config: Any) -> Path:
    """jinaai/jina-reranker-v2-base-multilingual's layout: no model_type, flash-attn's names, q, k, v in one."""
    _rewrite(folder, FLASH_NAMES, {"Wqkv": ("query", "key", "value")})
    files = "jinaai/xlm-roberta-flash-implementation--"
    changes = {
        "model_type": None,
        "auto_map": {
            "AutoConfig": f"{files}configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModelForSequenceClassification": f"{files}modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
        "position_embedding_type": "absolute",
        "use_flash_attn": True,
        "emb_pooler": None,
    }
    return configure(folder, changes | config)


def as_new_impl(folder: Path, **config: Any) -> Path:
    """Alibaba-NLP/gte-multilingual-reranker-base's layout: `new.` names, packed projections, NTK rope."""
    packed = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "up_gate_proj": ("up_proj", "gate_proj")}
    _rewrite(folder, NEW_NAMES, packed)
    changes = {
        "architectures": ["NewForSequenceClassification"],
        "model_type": "new",
        "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"},
        "rope_parameters": None,
        "rope_scaling": {"factor": 8.0, "type": "ntk"},
        "rope_theta": 20000,
        "position_embedding_type": "rope",
        "layer_norm_type": "layer_norm",
        "logn_attention_scale": False,
        "logn_attention_clip1": False,
        "pack_qkv": True,
        "unpad_inputs": "true",
        "use_memory_efficient_attention": "true",
    }
    return configure(folder, changes | config)


def configure(folder: Path, changes: dict[str, Any]) -> Path:
    """Write these keys into a checkpoint's configuration, without those that are None."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def _rewrite(folder: Path, names: tuple[tuple[str, str], ...], packed: dict[str, tuple[str, ...]]) -> None:
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor
    for whole, parts in packed.items():
        for first in [name for name in tensors if f".{parts[0]}." in name]:
            shares = [tensors.pop(first.replace(f".{parts[0]}.", f".{part}.")) for part in parts]
            tensors[first.replace(f".{parts[0]}.", f".{whole}.")] = torch.cat(shares)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
