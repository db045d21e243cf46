"""Late interaction models as a kind of models."""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.encoders import EMBEDDING_MODELS
from reranker_serve.families.kinds import Kind, check_positions, refuse_prompt
from reranker_serve.families.late_config import STANFORD, is_late_interaction, read_declared
from reranker_serve.families.late_interaction import LateInteraction
from reranker_serve.families.late_tokens import read_encoder, resolve
from reranker_serve.settings import Settings
from reranker_serve.types import Family


def _build(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    declared = read_declared(checkpoint)
    encoder = read_encoder(checkpoint, declared, settings.trust_text)
    longest = max_length if "max_length" in settings.model_fields_set else checkpoint.positions
    return LateInteraction(encoder, resolve(checkpoint, encoder, declared, longest))


def _check(checkpoint: Checkpoint) -> None:
    architecture, config = checkpoint.architecture, checkpoint.config
    path = checkpoint.folder / "config.json"
    if config.get("auto_map"):
        raise ModelError(
            f"{path}: auto_map names code in the model's repository for this late interaction model, and such code is"
            " not run here"
        )
    if architecture == STANFORD and config.get("model_type") != "bert":
        raise ModelError(f"{path}: model_type is {config.get('model_type')!r}; a {STANFORD} may be bert")
    if architecture != STANFORD and architecture not in EMBEDDING_MODELS:
        raise ModelError(
            f"{path}: architectures is {architecture}; a late interaction model may be {', '.join(EMBEDDING_MODELS)}"
        )
    check_positions(checkpoint)
    read_declared(checkpoint)


LATE_INTERACTION = Kind("late interaction model", (STANFORD,), is_late_interaction, _build, _check)
