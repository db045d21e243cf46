"""Which family serves a checkpoint, from what its files declare; never from its name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.bi_encoder import BiEncoder, read_embedding_config
from reranker_serve.families.cross_encoder import CrossEncoder
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.types import Family

CROSS_ENCODERS = (
    "XLMRobertaForSequenceClassification",
    "RobertaForSequenceClassification",
    "BertForSequenceClassification",
    "DistilBertForSequenceClassification",
    "ElectraForSequenceClassification",
    "ModernBertForSequenceClassification",
    "DebertaV2ForSequenceClassification",
)
EMBEDDING_MODELS = (
    "XLMRobertaModel",
    "RobertaModel",
    "BertModel",
    "DistilBertModel",
    "ElectraModel",
    "ModernBertModel",
    "MPNetModel",
)
# Their position table starts behind the padding index, so two rows of it are never used.
_POSITIONS_AFTER_PADDING = ("xlm-roberta", "roberta", "mpnet")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder that was read: its `config.json` and what is beside it."""

    folder: Path
    config: dict[str, Any]

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or ["none declared"])[0])

    @property
    def positions(self) -> int:
        """Longest sequence the model has positions for."""
        declared = int(self.config.get("max_position_embeddings") or 512)
        return declared - 2 if self.config.get("model_type") in _POSITIONS_AFTER_PADDING else declared

    @property
    def hidden_size(self) -> int:
        return int(self.config.get("hidden_size") or self.config["dim"])


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a model folder. Raises `ModelError` with one line that says what is wrong."""
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}: download one with ./download_model.sh MODEL DIR")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no model: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a model's configuration")
    checkpoint = Checkpoint(folder, config)
    _check_architecture(checkpoint)
    _check_weights(folder)
    return checkpoint


def build_family(checkpoint: Checkpoint, max_length: int, explicit: bool) -> Family:
    """The family for a checkpoint, its tokenizer loaded.

    `max_length` above what the model has positions for is an error where it was set
    (`explicit`), and narrowed where it is the default.
    """
    positions = checkpoint.positions
    if explicit and max_length > positions:
        raise SettingsError(
            f"RERANKER_MAX_LENGTH={max_length}, but {checkpoint.folder.name} has {positions} positions:"
            f" set it to {positions} or less"
        )
    encoder = TextEncoder(checkpoint.folder)
    if checkpoint.architecture in CROSS_ENCODERS:
        return CrossEncoder(encoder, min(max_length, positions))
    config = read_embedding_config(checkpoint.folder)
    declared = positions if explicit or not config.max_length else int(min(config.max_length, positions))
    return BiEncoder(encoder, config, checkpoint.hidden_size, min(max_length, declared))


def _check_architecture(checkpoint: Checkpoint) -> None:
    architecture, folder = checkpoint.architecture, checkpoint.folder
    if architecture in CROSS_ENCODERS:
        labels = len(checkpoint.config.get("id2label") or {}) or checkpoint.config.get("num_labels", 2)
        if labels != 1:
            raise ModelError(f"{folder}: a reranker has one label, this classifier has {labels}: it is no reranker")
    elif architecture in EMBEDDING_MODELS:
        if not (folder / "modules.json").is_file():
            raise ModelError(
                f"{folder}: {architecture} is served as an embedding model and needs the modules.json of"
                " sentence-transformers beside it"
            )
    else:
        known = ", ".join((*CROSS_ENCODERS, *EMBEDDING_MODELS))
        raise ModelError(f"{folder}: architecture {architecture} is not supported; supported are {known}")


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any((*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))):
        raise ModelError(
            f"{folder} has pickled weights only, which can run code when loaded: use a version of the model"
            " with model.safetensors, or convert it with transformers' save_pretrained"
        )
    raise ModelError(f"{folder} has no weights: model.safetensors is missing; download the model again")
