"""A model folder: what its files declare. What they mean is for families and backends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker_serve.errors import ModelError
from reranker_serve.published import Renames, native
from reranker_serve.weight_formats import NO_WEIGHTS, unreadable

# Their position table starts behind the padding index, so that its first rows are never used.
_POSITIONS_AFTER_PADDING = ("xlm-roberta", "roberta", "camembert", "xlm-roberta-xl")
_PADDING = 1  # where none is declared; MPNet's, whatever is declared
_WEIGHTS = "model.safetensors"
# Where `modules.json` names it.
OLD_LAYOUT = (
    "the transformer is in a folder of its own, as sentence-transformers wrote it before its version 2: load the model"
    " with a current one, and save it again"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder that was read: its `config.json` and what is beside it.

    Where a model was published with code of its own, `config` is that of the native class which serves it, and
    `renames` tells what the tensors of the files are called there; None where the files are native.
    """

    folder: Path
    config: dict[str, Any]
    renames: Renames | None = None

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or ["none declared"])[0])

    @property
    def labels(self) -> int:
        """Of a classifier."""
        return len(self.config.get("id2label") or {}) or int(self.config.get("num_labels", 2))

    @property
    def positions(self) -> int:
        """Longest sequence the model has positions for."""
        declared = int(self.config.get("max_position_embeddings") or 512)
        if self.starts_after_padding:
            return declared - int(self.config.get("pad_token_id", _PADDING)) - 1
        return declared - _PADDING - 1 if self.config.get("model_type") == "mpnet" else declared

    @property
    def starts_after_padding(self) -> bool:
        """Whether positions are counted from behind the one that the id of padding tells."""
        return self.config.get("model_type") in _POSITIONS_AFTER_PADDING

    @property
    def vocabulary(self) -> int | None:
        """How many token ids the model knows, where it says so."""
        declared: int | None = self.config.get("vocab_size")
        return declared

    @property
    def hidden_size(self) -> int:
        return int(self.config.get("hidden_size") or self.config["dim"])

    @property
    def has_modules(self) -> bool:
        """Whether sentence-transformers' metadata is there, which tells what comes after the transformer."""
        return (self.folder / "modules.json").is_file()

    def read(self, name: str, default: Any) -> Any:
        """The JSON of a file of the folder; `default` if it is not there. Raises `ModelError`."""
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from None

    def read_object(self, name: str) -> dict[str, Any]:
        """The JSON object of a file of the folder; an empty one if it is not there. Raises `ModelError`."""
        found = self.read(name, {})
        if not isinstance(found, dict):
            raise ModelError(f"{self.folder / name} is not an object")
        return found


def read_folder(folder: Path) -> Checkpoint:
    """Read a model folder's configuration. Raises `ModelError` with one line that says what is wrong."""
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}: download one with ./download_model.sh MODEL DIR")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        modules = folder / "modules.json"
        raise ModelError(
            f"{modules}: {OLD_LAYOUT}" if modules.is_file() else f"{folder} holds no model: it has no config.json"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a model's configuration")
    _check_config(folder / "config.json", config)
    translated = native(folder / "config.json", config)
    return Checkpoint(folder, config) if translated is None else Checkpoint(folder, *translated)


def check_weights(folder: Path) -> None:
    """Raises `ModelError` unless there are weights that are safe to load."""
    why = unreadable(str(path.relative_to(folder)) for pattern in ("*", "*/*") for path in folder.glob(pattern))
    if why not in (None, NO_WEIGHTS):
        raise ModelError(f"{folder} has {why}")
    files = weight_files(folder)
    lacking = [name for name in files if not (folder / name).is_file()]
    if why is not None or not files:
        raise ModelError(f"{folder} has {NO_WEIGHTS}; download the model again")
    if lacking:
        raise ModelError(
            f"{folder} lacks {len(lacking)} of the {len(files)} files of its weights, {lacking[0]} first: download the"
            " model again"
        )


def weight_files(folder: Path) -> tuple[str, ...]:
    """The files that transformers loads a model's weights from, by name, there or not; none where nothing tells.

    Raises `ModelError`.
    """
    if (folder / _WEIGHTS).is_file():
        return (_WEIGHTS,)
    index = folder / f"{_WEIGHTS}.index.json"
    if not index.is_file():
        return ()
    try:
        return tuple(sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} cannot be read ({error}): download the model again") from None


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """What is read of a configuration is of the kind that it should be."""
    for name in ("max_position_embeddings", "hidden_size", "num_attention_heads", "dim", "vocab_size", "num_labels"):
        value = config.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise ModelError(f"{path}: {name} is {value!r}, not a whole number above 0")
    architectures, labels = config.get("architectures"), config.get("id2label")
    if architectures and not (isinstance(architectures, list) and isinstance(architectures[0], str)):
        raise ModelError(f"{path}: architectures is {architectures!r}, not a list of names")
    if labels and not isinstance(labels, dict):
        raise ModelError(f"{path}: id2label is {labels!r}, not an object")
    _check_labels(path, config)


def _check_labels(path: Path, config: dict[str, Any]) -> None:
    """What is declared of labels agrees; transformers would believe `num_labels` and give them other names."""
    names, number = config.get("id2label"), config.get("num_labels")
    if names and number is not None and number != len(names):
        raise ModelError(f"{path}: num_labels is {number}, but id2label names {len(names)}: correct what is wrong")
    if config.get("problem_type") == "single_label_classification" and (len(names or ()) or number) == 1:
        raise ModelError(
            f"{path}: problem_type is 'single_label_classification', which one label cannot be: if this is a reranker,"
            " remove the key"
        )
