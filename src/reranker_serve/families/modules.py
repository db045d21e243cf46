"""The modules of a sentence-transformers folder: what comes after its transformer.

`modules.json` lists them in order; each has its `config.json` in a folder of its own, and its weights beside that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from reranker_serve.checkpoint import OLD_LAYOUT, Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.layers import Activation, DenseLayer, Layer, NormLayer
from reranker_serve.readouts import Pooling

_ACTIVATIONS: dict[str, Activation] = {
    "Identity": "identity",
    "GELU": "gelu",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
    "Tanh": "tanh",
}
_PACKAGES = ("sentence_transformers.", "pylate.")
_WEIGHTS = "model.safetensors"

# The pooling names of sentence-transformers 5.x and later; before, one `pooling_mode_*` flag each.
_POOLING: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_POOLING_FLAG = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True)
class Module:
    """A row of `modules.json`: `kind` is the class's own name, `path` its folder in the checkpoint's.

    Of code in the model's repository, which is not run here, `kind` is the dotted name, and so none that is known.
    """

    kind: str
    path: str

    @property
    def config(self) -> str:
        return str(Path(self.path, "config.json"))


def read_modules(checkpoint: Checkpoint) -> tuple[Module, ...]:
    """The rows of `modules.json`, none if there is no such file. Raises `ModelError`."""
    rows = checkpoint.read("modules.json", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ModelError(f"{checkpoint.folder / 'modules.json'} is not a list of modules")
    modules = tuple(Module(_kind(str(row.get("type", ""))), str(row.get("path", ""))) for row in rows)
    if modules and modules[0].kind == "Transformer" and Path(modules[0].path) != Path():
        raise ModelError(f"{checkpoint.folder / 'modules.json'}: {OLD_LAYOUT}")
    return modules


def _kind(dotted: str) -> str:
    return dotted.rsplit(".", 1)[-1] if dotted.startswith(_PACKAGES) else dotted


def read_layers(
    checkpoint: Checkpoint, modules: Sequence[Module], width: int, feature: str, result: str | None = None
) -> tuple[Layer, ...]:
    """The layers that modules are, applied to vectors of `width` numbers, one after the other.

    sentence-transformers calls the vectors `feature`, and what comes out of the last layer `result`, if not the same.
    Raises `ModelError` with one line that names the file and the key: for a module that is no layer, an activation that
    is not known, a width that does not fit the one before, and weights that are missing or of another shape.
    """
    layers: list[Layer] = []
    for module in modules:
        gives = feature if module is not modules[-1] else result or feature
        layer = _read_layer(checkpoint, module, {"module_input_name": feature, "module_output_name": gives})
        if layer.inputs != width:
            key = "in_features" if isinstance(layer, DenseLayer) else "dimension"
            raise ModelError(
                f"{checkpoint.folder / module.config}: {key} is {layer.inputs}, but what comes before gives {width}"
                " numbers: the module belongs to another model"
            )
        check_layer(checkpoint, layer)
        layers.append(layer)
        width = layer.outputs
    return tuple(layers)


def read_pooling(checkpoint: Checkpoint, module: Module, *, prompted: bool) -> Pooling:
    """What a Pooling module declares; `prompted` where texts have a prompt. Raises `ModelError`."""
    folder, config = checkpoint.folder, checkpoint.read_object(module.config)
    if prompted and config.get("include_prompt") is False:
        raise ModelError(f"{folder}: a prompt that is left out of pooling (include_prompt: false) is not supported")
    declared = config.get("pooling_mode")
    if declared is None:
        flags = [mode for flag, mode in _POOLING_FLAG.items() if config.get(flag)]
        declared = flags[0] if len(flags) == 1 else flags
    if not isinstance(declared, str) or declared not in _POOLING:
        raise ModelError(f"{folder}: pooling {declared} is not supported; supported are {', '.join(_POOLING)}")
    return _POOLING[declared]


def read_tensor_layer(checkpoint: Checkpoint, tensor: str, inputs: int, outputs: int) -> Layer:
    """A layer without bias whose weight lies among the transformer's own, as `tensor`. Raises `ModelError`."""
    index = checkpoint.read_object(f"{_WEIGHTS}.index.json").get("weight_map") or {}
    weights = str(index.get(f"{tensor}.weight", _WEIGHTS))
    layer = DenseLayer(weights, inputs, outputs, bias=False, activation="identity", name=tensor)
    check_layer(checkpoint, layer)
    return layer


def _read_layer(checkpoint: Checkpoint, module: Module, names: Mapping[str, str]) -> Layer:
    path, config = checkpoint.folder / module.config, checkpoint.read(module.config, None)
    if not isinstance(config, dict):
        raise ModelError(f"{path} is missing or not an object: download the model again")
    weights = str(Path(module.path, _WEIGHTS))
    for key, name in names.items():
        if config.get(key, name) != name:
            raise ModelError(f"{path}: {key} is {config[key]!r}, but it must be {name} where this module stands")
    if module.kind == "LayerNorm":
        return NormLayer(weights, _count(path, config, "dimension"))
    if module.kind != "Dense":
        raise ModelError(
            f"{checkpoint.folder / 'modules.json'}: the module {module.kind} is no layer that is supported"
        )
    return DenseLayer(
        weights,
        _count(path, config, "in_features"),
        _count(path, config, "out_features"),
        bool(config.get("bias", True)),
        _activation(path, config),
        bool(config.get("use_residual", False)),
    )


def _count(path: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise ModelError(f"{path}: {key} is {value!r}, not a whole number above 0")
    return value


def _activation(path: Path, config: dict[str, Any]) -> Activation:
    """A class of torch, as its dotted name: `torch.nn.modules.activation.GELU`."""
    declared = config.get("activation_function")
    home, _, name = str(declared).rpartition(".")
    if not home.startswith("torch.nn.") or name not in _ACTIVATIONS:
        raise ModelError(
            f"{path}: activation_function is {declared!r}; supported are those of torch.nn named"
            f" {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def check_layer(checkpoint: Checkpoint, layer: Layer) -> None:
    """Raises `ModelError` unless the layer's weights are in the folder, in its shape."""
    path = checkpoint.folder / layer.weights
    if not path.is_file() and path.with_name("pytorch_model.bin").is_file():
        raise ModelError(
            f"{path} is missing: pytorch_model.bin beside it is pickled, which can run code when loaded; save the model"
            " again with a current sentence-transformers"
        )
    if not path.is_file():
        raise ModelError(f"{path} is missing: the model needs it, with {' and '.join(layer.shapes)}; download it again")
    try:
        with safe_open(path, "np") as tensors:
            found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    for name, shape in layer.shapes.items():
        if name not in found:
            raise ModelError(f"{path} has no {name}: it holds the weights of another module")
        if found[name] != shape:
            raise ModelError(f"{path}: {name} is {list(found[name])}, but config.json beside it tells {list(shape)}")
