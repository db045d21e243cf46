"""What a folder of a listwise model declares: jina-reranker-v3, whose architecture is code of its own over a Qwen3."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.kinds import Kind
from reranker_serve.families.listwise import DOCUMENT_TOKENS, PROMPT, Listwise
from reranker_serve.layers import Activation, DenseLayer
from reranker_serve.readouts import VectorsReadout
from reranker_serve.settings import Settings
from reranker_serve.types import Family

ARCHITECTURE = "JinaForRanking"
_FIRST, _SECOND = "projector.0", "projector.2"


def _listwise(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    if settings.prompt not in (None, PROMPT):
        raise SettingsError(f"RERANKER_PROMPT={settings.prompt}, but {ARCHITECTURE} has a prompt of its own: unset it")
    layers = read_projector(checkpoint)
    document_tokens = max_length if "max_length" in settings.model_fields_set else DOCUMENT_TOKENS
    readout = VectorsReadout(layers[-1].outputs, layers, normalized=False)
    return Listwise(
        checkpoint.folder,
        readout,
        checkpoint.positions,
        document_tokens,
        checkpoint.vocabulary,
        trusted=settings.trust_text,
    )


def _check(checkpoint: Checkpoint) -> None:
    path, config = checkpoint.folder / "config.json", checkpoint.config
    if config.get("model_type") != "qwen3":
        raise ModelError(f"{path}: model_type is {config.get('model_type')!r}; a {ARCHITECTURE} may be qwen3")
    kinds = config.get("layer_types") or []
    windows = not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    if windows or config.get("use_sliding_window"):
        key = "layer_types" if windows else "use_sliding_window"
        raise ModelError(
            f"{path}: {key} tells of a sliding window, as in jina-reranker-v3.5, whose prompt is not known here: serve"
            " jinaai/jina-reranker-v3"
        )


def read_projector(checkpoint: Checkpoint) -> tuple[DenseLayer, DenseLayer]:
    """The two layers behind the transformer, as wide as their weights are. Raises `ModelError`."""
    first = _read_layer(checkpoint, _FIRST, checkpoint.hidden_size, "relu")
    return first, _read_layer(checkpoint, _SECOND, first.outputs, "identity")


def _read_layer(checkpoint: Checkpoint, name: str, inputs: int, activation: Activation) -> DenseLayer:
    tensor = f"{name}.weight"
    for path in sorted(checkpoint.folder.glob("*.safetensors")):
        shape = _shape(path, tensor)
        if shape is None:
            continue
        if len(shape) != 2 or shape[1] != inputs:
            raise ModelError(f"{path}: {tensor} is {shape}, but what comes before it gives {inputs} numbers")
        return DenseLayer(path.name, inputs, shape[0], False, activation, name=name)
    raise ModelError(
        f"{checkpoint.folder}: no file of weights has {tensor}, which a {ARCHITECTURE} needs; download the model again"
    )


def _shape(path: Path, tensor: str) -> list[int] | None:
    try:
        with safe_open(path, "np") as tensors:
            known = tensor in tensors.keys()  # noqa: SIM118
            return list(tensors.get_slice(tensor).get_shape()) if known else None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


LISTWISE = Kind(
    "listwise model",
    (ARCHITECTURE,),
    lambda checkpoint: checkpoint.architecture == ARCHITECTURE,
    _listwise,
    _check,
)
