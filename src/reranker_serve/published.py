"""Checkpoints published with code of their own, read as those of a class in transformers that computes the same.

The code is not run: a configuration is put into the native class's words, and what that class does not compute
is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from reranker_serve.errors import ModelError

Config = dict[str, Any]
# A part of tensors' names, and what stands in its place; of several, each is for an equal share of the tensor's rows.
Renames = tuple[tuple[str, tuple[str, ...]], ...]

# jinaai/jina-reranker-v2-base-multilingual: XLM-RoBERTa with the names of flash-attn's BERT.
_FLASH_RENAMES: Renames = (
    ("roberta.emb_ln.", ("roberta.embeddings.LayerNorm.",)),
    (".encoder.layers.", (".encoder.layer.",)),
    (".mixer.Wqkv.", (".attention.self.query.", ".attention.self.key.", ".attention.self.value.")),
    (".mixer.out_proj.", (".attention.output.dense.",)),
    (".norm1.", (".attention.output.LayerNorm.",)),
    (".mlp.fc1.", (".intermediate.dense.",)),
    (".mlp.fc2.", (".output.dense.",)),
    (".norm2.", (".output.LayerNorm.",)),
)
_FLASH_ALLOWS: Mapping[str, Collection[Any]] = {
    "position_embedding_type": ("absolute",),
    # Anything else is computed as an exact GELU there.
    "hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
    "lora_adaptations": (None,),
}

# Alibaba-NLP/new-impl, which gte-multilingual-reranker-base is published with.
_NEW_ALLOWS: Mapping[str, Collection[Any]] = {
    "position_embedding_type": ("rope",),
    "layer_norm_type": ("layer_norm",),
    "pack_qkv": (True, "true"),
    "logn_attention_scale": (False, "false"),
}
_NEW_THETA = 10_000.0


def native(path: Path, config: Config) -> tuple[Config, Renames] | None:
    """The configuration at `path` in a native class's words, and its tensors' names; None where it is native.

    Raises `ModelError` with one line that names the key which the native class does not compute.
    """
    for tells, translate in _LAYOUTS:
        if tells(config):
            return translate(path, config)
    return None


def _own_class(config: Config, part: str) -> str:
    """`configuration_xlm_roberta.XLMRobertaFlashConfig` -> `XLMRobertaFlashConfig`."""
    declared = config.get("auto_map")
    return str(declared.get(part)).rsplit(".", 1)[-1] if isinstance(declared, dict) else ""


def _architecture(config: Config) -> str | None:
    return next(iter(config.get("architectures") or ()), None)


def _is_flash(config: Config) -> bool:
    own = _own_class(config, "AutoConfig") == "XLMRobertaFlashConfig"
    return own and _architecture(config) == "XLMRobertaForSequenceClassification"


def _from_flash(path: Path, config: Config) -> tuple[Config, Renames]:
    _require(path, config, _FLASH_ALLOWS, "XLMRobertaForSequenceClassification")
    return _without(config, "auto_map", "position_embedding_type") | {"model_type": "xlm-roberta"}, _FLASH_RENAMES


def _is_new(config: Config) -> bool:
    return _architecture(config) == "NewForSequenceClassification" and config.get("model_type") == "new"


def _from_new(path: Path, config: Config) -> tuple[Config, Renames]:
    """transformers renames the tensors of this layout by itself."""
    _require(path, config, _NEW_ALLOWS, "GteForSequenceClassification")
    own = ("auto_map", "rope_scaling", "rope_theta", *_NEW_ALLOWS)
    return _without(config, *own) | {
        "architectures": ["GteForSequenceClassification"],
        "model_type": "gte",
        "rope_parameters": _rope(path, config),
    }, ()


def _rope(path: Path, config: Config) -> Config:
    """NTK scaling by f: base * f, and frequencies / f^(2 / head_dim), the latter being what `linear` does."""
    theta = config.get("rope_theta", _NEW_THETA)
    if type(theta) not in (int, float) or theta <= 0:
        raise ModelError(f"{path}: rope_theta is {theta!r}, not a number above 0")
    scaling = config.get("rope_scaling")
    if not scaling:
        return {"rope_type": "default", "rope_theta": float(theta)}
    factor = _ntk_factor(path, scaling)
    head_dim = int(config.get("hidden_size", 768)) // int(config.get("num_attention_heads", 12))
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head_dim)}


def _ntk_factor(path: Path, scaling: Any) -> float:
    declared: Config = scaling if isinstance(scaling, dict) else {}
    factor: Any = declared.get("factor")
    kind = declared.get("rope_type") or declared.get("type")
    if kind != "ntk" or declared.get("mixed_b") is not None or type(factor) not in (int, float) or factor < 1:
        raise ModelError(f"{path}: rope_scaling is {scaling!r}; of this architecture only ntk with a factor is served")
    return float(factor)


def _is_two_way_llama(config: Config) -> bool:
    return config.get("model_type") == "llama_bidirec"


def _from_two_way_llama(_: Path, config: Config) -> tuple[Config, Renames]:
    """nvidia/llama-nemotron-rerank: the weights are those of Llama; what differs is that no token is hidden."""
    own = {"architectures": ["LlamaModel"], "model_type": "llama", "is_causal": False, "use_cache": False}
    return _without(config, "auto_map") | own, ()


def _is_published_eurobert(config: Config) -> bool:
    return config.get("model_type") == "eurobert" and "clf_pooling" in config and "classifier_pooling" not in config


def _from_published_eurobert(_: Path, config: Config) -> tuple[Config, Renames]:
    return _without(config, "auto_map", "clf_pooling") | {"classifier_pooling": config["clf_pooling"]}, ()


def _is_own_nomic(config: Config) -> bool:
    return config.get("model_type") == "nomic_bert" and "n_embd" in config


def _refuse_own_nomic(path: Path, _: Config) -> tuple[Config, Renames]:
    raise ModelError(
        f"{path}: n_embd is a key of the code in the model's repository, which is not run here, and transformers"
        " ignores it: use a version of the model that was converted to transformers"
    )


def _require(path: Path, config: Config, allowed: Mapping[str, Collection[Any]], native_class: str) -> None:
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            raise ModelError(
                f"{path}: {key} is {config[key]!r}, which {native_class} of transformers does not compute, and the"
                " code in the model's repository is not run here"
            )


def _without(config: Config, *keys: str) -> Config:
    return {key: value for key, value in config.items() if key not in keys}


_LAYOUTS: tuple[tuple[Callable[[Config], bool], Callable[[Path, Config], tuple[Config, Renames]]], ...] = (
    (_is_flash, _from_flash),
    (_is_new, _from_new),
    (_is_two_way_llama, _from_two_way_llama),
    (_is_published_eurobert, _from_published_eurobert),
    (_is_own_nomic, _refuse_own_nomic),
)
