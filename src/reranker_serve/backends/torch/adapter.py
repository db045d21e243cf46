"""LoRA adapters, merged into the weights of the layers they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reranker_serve.backends.adapter_config import ADAPTER_FOLDER, AdapterConfig, read_adapter_config
from reranker_serve.errors import ModelError

_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class Adapter:
    """The tensors of `adapter_model.safetensors`, by the parameters of the model that they change."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "adapter_model.safetensors"
        config = read_adapter_config(folder)
        self._scale = config.scale
        try:
            tensors = load_file(self._path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{self._path} cannot be read: {error}; download the adapter again") from None
        named = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        self._replaced = {name: tensor for name, tensor in named.items() if _is_saved(name, config)}
        self._changes = {
            name.removesuffix(_DOWN): (tensor, named[name.removesuffix(_DOWN) + _UP])
            for name, tensor in named.items()
            if name.endswith(_DOWN) and name.removesuffix(_DOWN) + _UP in named
        }
        known = {part for path in self._changes for part in (path + _DOWN, path + _UP)}
        for name in named.keys() - self._replaced.keys() - known:
            raise self._refusal(name)

    def brings(self, parameter: str) -> bool:
        """Whether the adapter has the parameter itself, so that the base need not."""
        return parameter in self._replaced

    def merge(self, model: Any, dtype: torch.dtype, read: Callable[[Tensor], None]) -> None:
        """Change the model's weights; those are in `dtype` then. `read` is called with each that is not needed more."""
        table = model.get_input_embeddings()
        modules = dict(model.named_modules())
        for path, (down, up) in self._changes.items():
            layer = modules.get(path)
            if not isinstance(layer, nn.Linear) or layer.weight is table.weight:
                raise self._refusal(path + _DOWN)
            old = layer.weight.data
            if (up.shape[0], down.shape[1]) != old.shape or up.shape[1] != down.shape[0]:
                raise self._misfit(path + _DOWN)
            # In float32, rounded once; and never in place, in the memory that is the file's.
            change = up.to(old.device, torch.float32) @ down.to(old.device, torch.float32)
            layer.weight.data = torch.add(old.to(torch.float32), change, alpha=self._scale).to(dtype)
            read(old)
        parameters = dict(model.named_parameters())
        for name, tensor in self._replaced.items():
            parameter = parameters.get(name)
            if parameter is None or parameter is table.weight:
                raise self._refusal(name)
            if parameter.shape != tensor.shape:
                raise self._misfit(name)
            parameter.data = tensor.to(parameter.device, dtype)

    def _refusal(self, name: str) -> ModelError:
        return ModelError(
            f"{self._path}: {name} is of no layer that an adapter can be merged into here: merge it with peft's"
            " merge_and_unload and save the whole model"
        )

    def _misfit(self, name: str) -> ModelError:
        return ModelError(
            f"{self._path}: {name} does not have the shape of the base's layer: the base is another model"
        )


def adapter_of(folder: Path) -> Adapter | None:
    """The adapter that comes with a model's folder. Raises `ModelError` where one would be left out."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder} has an adapter beside its weights: it has to be laid out before it is loaded")
    return Adapter(folder / ADAPTER_FOLDER) if (folder / ADAPTER_FOLDER).is_dir() else None


def _is_saved(name: str, config: AdapterConfig) -> bool:
    """Whether a tensor is of a module that was trained whole, and not of an adapter on it."""
    return ".lora_" not in name and not set(config.saved).isdisjoint(name.split("."))
