"""What a kind of model is: how a folder tells that it holds one, and which family serves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.settings import Settings
from reranker_serve.types import Family

_ROTARY = ("rope", "rotary")
# With frequencies that change where a text is longer than those the model was first trained with.
_BY_LONGEST = ("dynamic", "longrope")
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


def check_encoder(checkpoint: Checkpoint) -> None:
    """Raises `ModelError` unless each token sees all others, at positions that transformers computes."""
    require_values(checkpoint, {"is_decoder": False, "is_causal": False}, "an encoder sees in both directions")
    check_positions(checkpoint)
    check_frequencies(checkpoint)
    padding = checkpoint.config.get("pad_token_id", 1)
    if checkpoint.starts_after_padding and (type(padding) is not int or padding < 0):
        raise ModelError(
            f"{checkpoint.folder / 'config.json'}: pad_token_id is {padding!r}, but the positions of this model start"
            " behind it: set it to the id of the tokenizer's padding, mostly 1"
        )


def require_values(checkpoint: Checkpoint, wanted: Mapping[str, bool], why: str) -> None:
    """Raises `ModelError` where `config.json` declares a key otherwise."""
    for key, value in wanted.items():
        declared = checkpoint.config.get(key)
        if declared is not None and declared is not value:
            raise ModelError(
                f"{checkpoint.folder / 'config.json'}: {key} is {declared!r}, but {why}: use another version of the"
                " model"
            )


def check_frequencies(checkpoint: Checkpoint) -> None:
    """Raises `ModelError` where the same text would be rotated otherwise beside a long one."""
    most = checkpoint.config.get("max_position_embeddings") or 0
    for key in ("rope_parameters", "rope_scaling"):
        declared = checkpoint.config.get(key)
        parts = [declared, *declared.values()] if isinstance(declared, dict) else []
        for part in (part for part in parts if isinstance(part, dict)):
            kind = part.get("rope_type") or part.get("type")
            original = part.get("original_max_position_embeddings") or most
            if kind in _BY_LONGEST and original < most:
                raise ModelError(
                    f"{checkpoint.folder / 'config.json'}: {key} has the type {kind}, by which a score depends on the"
                    f" longest text of its batch: it is not served; lower max_position_embeddings to {original}"
                )


def check_positions(checkpoint: Checkpoint) -> None:
    """transformers ignores the key: a class has the positions it has."""
    declared = checkpoint.config.get("position_embedding_type", "absolute")
    if declared != "absolute" and not (declared in _ROTARY and checkpoint.architecture in _ROTARY_CLASSIFIERS):
        raise ModelError(
            f"{checkpoint.folder / 'config.json'}: position_embedding_type is {declared!r}, which transformers'"
            f" {checkpoint.architecture} does not compute, so its scores would be wrong: use another model"
        )


def narrowed(max_length: int, declared: float | None, settings: Settings) -> int:
    """No more tokens than a folder declares, unless more were asked for."""
    return int(min(max_length, declared)) if declared and "max_length" not in settings.model_fields_set else max_length


def refuse_prompt(checkpoint: Checkpoint, settings: Settings) -> None:
    """Raises `SettingsError` if there is a setting that means something to language models only."""
    if settings.prompt is not None or settings.instruction is not None:
        name = "RERANKER_PROMPT" if settings.prompt is not None else "RERANKER_INSTRUCTION"
        raise SettingsError(f"{name} is set, but {checkpoint.architecture} is no language model: unset it")
