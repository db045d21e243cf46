"""Which family serves a checkpoint, from what its files declare; never from a part of its name."""

from __future__ import annotations

from pathlib import Path

from reranker_serve.checkpoint import Checkpoint, check_weights, read_folder
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.encoders import CROSS_ENCODER, EMBEDDING_MODEL, MODULAR_CROSS_ENCODER
from reranker_serve.families.kinds import Kind
from reranker_serve.families.language_models import (
    BIDIRECTIONAL_LANGUAGE_MODEL,
    CONVERTED_LANGUAGE_MODEL,
    LANGUAGE_MODEL,
    MODULAR_LANGUAGE_MODEL,
)
from reranker_serve.families.late_kind import LATE_INTERACTION
from reranker_serve.families.listwise_config import LISTWISE
from reranker_serve.families.refusals import is_refused, refusal
from reranker_serve.settings import Settings
from reranker_serve.types import Family

# The first that a folder tells of is its kind.
KINDS: tuple[Kind, ...] = (
    LATE_INTERACTION,
    CROSS_ENCODER,
    MODULAR_CROSS_ENCODER,
    EMBEDDING_MODEL,
    LANGUAGE_MODEL,
    CONVERTED_LANGUAGE_MODEL,
    MODULAR_LANGUAGE_MODEL,
    BIDIRECTIONAL_LANGUAGE_MODEL,
    LISTWISE,
)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a model folder. Raises `ModelError` with one line that says what is wrong."""
    checkpoint = read_folder(folder)
    kind_of(checkpoint).check(checkpoint)
    check_weights(folder)
    return checkpoint


def kind_of(checkpoint: Checkpoint) -> Kind:
    """Raises `ModelError` with one line for what is none of those that are served."""
    # Without a model type its code is all that tells what it is, whatever class its name is that of.
    own = checkpoint.config.get("auto_map") and not checkpoint.config.get("model_type")
    for kind in () if own or is_refused(checkpoint) else KINDS:
        if kind.tells(checkpoint):
            return kind
    raise ModelError(refusal(checkpoint, [name for kind in KINDS for name in kind.architectures]))


def build_family(checkpoint: Checkpoint, settings: Settings) -> Family:
    """The family for a checkpoint, its tokenizer loaded.

    A `max_length` above what the model has positions for is an error where it was set, and
    narrowed where it is the default.
    """
    positions = checkpoint.positions
    if "max_length" in settings.model_fields_set and settings.max_length > positions:
        raise SettingsError(
            f"RERANKER_MAX_LENGTH={settings.max_length}, but {checkpoint.folder.name} has {positions} positions:"
            f" set it to {positions} or less"
        )
    family = kind_of(checkpoint).build(checkpoint, settings, min(settings.max_length, positions))
    least, most = family.max_length_bounds
    if least > most:
        raise ModelError(
            f"{checkpoint.folder} reads {most} tokens at most, of which the template takes {least - 1}: correct the"
            " length that its files declare, or RERANKER_MAX_LENGTH"
        )
    return family
