"""What a kind of model is: how a folder tells that it holds one, and which family serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.settings import Settings
from reranker_serve.types import Family

_ROTARY = ("rope", "rotary")
_ROTARY_CLASSIFIERS = (
    "ModernBertForSequenceClassification",
    "EuroBertForSequenceClassification",
    "NomicBertForSequenceClassification",
    "RoFormerForSequenceClassification",
    "JinaEmbeddingsV3ForSequenceClassification",
    "GteForSequenceClassification",
)


def _accept(checkpoint: Checkpoint) -> None:
    """Nothing else to look at."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the registry.

    `tells` says whether a folder holds such a model, from what it declares; `check` then raises `ModelError` with one
    line if it cannot be served all the same. `build(checkpoint, settings, max_length)` makes its family, for texts of
    at most so many tokens. `architectures` are what users are told of.
    """

    name: str
    architectures: tuple[str, ...]
    tells: Callable[[Checkpoint], bool]
    build: Callable[[Checkpoint, Settings, int], Family]
    check: Callable[[Checkpoint], None] = _accept


def check_one_label(checkpoint: Checkpoint) -> None:
    if checkpoint.labels != 1:
        names = ", ".join(map(str, (checkpoint.config.get("id2label") or {}).values()))
        raise ModelError(
            f"{checkpoint.folder}: a reranker has one label, this classifier has {checkpoint.labels}"
            f"{f' ({names})' if names else ''}: it is no reranker"
        )


def check_positions(checkpoint: Checkpoint) -> None:
    """transformers ignores the key: a class has the positions it has."""
    declared = checkpoint.config.get("position_embedding_type", "absolute")
    if declared != "absolute" and not (declared in _ROTARY and checkpoint.architecture in _ROTARY_CLASSIFIERS):
        raise ModelError(
            f"{checkpoint.folder / 'config.json'}: position_embedding_type is {declared!r}, which transformers'"
            f" {checkpoint.architecture} does not compute, so its scores would be wrong: use another model"
        )


def refuse_prompt(checkpoint: Checkpoint, settings: Settings) -> None:
    """Raises `SettingsError` if there is a setting that means something to language models only."""
    if settings.prompt is not None or settings.instruction is not None:
        name = "RERANKER_PROMPT" if settings.prompt is not None else "RERANKER_INSTRUCTION"
        raise SettingsError(f"{name} is set, but {checkpoint.architecture} is no language model: unset it")
