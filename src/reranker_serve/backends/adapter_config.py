"""What an adapter of peft declares: its `adapter_config.json`, as far as it can be merged into its base's weights."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker_serve.errors import ModelError

# In a model's folder, where its adapter lies: not beside the weights, where transformers would apply it, too.
ADAPTER_FOLDER = "_adapter"

# Each changes what is computed, and is not what is merged here.
_UNKNOWN = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
)
# Others, such as PiSSA and OLoRA, change the base's weights before training.
_LEAVE_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A LoRA adapter: `W += scale * B A` for each layer it has tensors of; modules `saved` are replaced.

    `base` is a hub id or a folder, `revision` the base's, `task_type` names the class it was trained as.
    """

    base: str | None
    revision: str | None
    task_type: str | None
    scale: float
    saved: tuple[str, ...]


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read `adapter_config.json`. Raises `ModelError` naming the key of what cannot be merged.

    Scale: alpha / r (https://arxiv.org/abs/2106.09685), or alpha / sqrt(r) with `use_rslora`
    (https://arxiv.org/abs/2312.03732).
    """
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = config["r"], config["lora_alpha"]
    except KeyError as error:
        _refuse_kind(path, config)
        raise ModelError(f"{path} has no {error.args[0]}: it is not the configuration of a LoRA adapter") from None
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    _refuse_kind(path, config)
    for key in _UNKNOWN:
        if config.get(key):
            raise _refusal(path, key, config[key])
    if config.get("bias") not in (None, "none"):
        raise _refusal(path, "bias", config["bias"])
    if config.get("init_lora_weights") not in _LEAVE_THE_BASE:
        raise _refusal(path, "init_lora_weights", config["init_lora_weights"])
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        raise ModelError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}, not two numbers above 0")
    return AdapterConfig(
        config.get("base_model_name_or_path"),
        config.get("revision"),
        config.get("task_type"),
        alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
        tuple(config.get("modules_to_save") or ()),
    )


def _refuse_kind(path: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") not in (None, "LORA"):
        raise _refusal(path, "peft_type", config["peft_type"])


def _refusal(path: Path, key: str, value: object) -> ModelError:
    return ModelError(
        f"{path}: an adapter with {key} {json.dumps(value)[:80]} cannot be merged here: merge it with peft's"
        " merge_and_unload and save the whole model"
    )
