"""Encoders as kinds of models: classifiers of pairs, and embedding models."""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.bi_encoder import BiEncoder, read_embedding_config
from reranker_serve.families.cross_encoder import CrossEncoder
from reranker_serve.families.kinds import Kind, check_one_label, refuse_prompt
from reranker_serve.families.late_config import STANFORD, is_late_interaction, read_declared
from reranker_serve.families.late_interaction import LateInteraction
from reranker_serve.families.late_tokens import resolve
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.settings import Settings
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


def _cross_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    return CrossEncoder(TextEncoder(checkpoint.folder, checkpoint.vocabulary), max_length)


def _bi_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    encoder = TextEncoder(checkpoint.folder, checkpoint.vocabulary)
    config = read_embedding_config(checkpoint)
    if "max_length" not in settings.model_fields_set and config.max_length:
        max_length = int(min(max_length, config.max_length))
    return BiEncoder(encoder, config, checkpoint.hidden_size, max_length)


def _late_interaction(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    encoder = TextEncoder(checkpoint.folder, checkpoint.vocabulary)
    longest = max_length if "max_length" in settings.model_fields_set else checkpoint.positions
    return LateInteraction(encoder, resolve(checkpoint, encoder, read_declared(checkpoint), longest))


def _check_late_interaction(checkpoint: Checkpoint) -> None:
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
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(f"{path}: position_embedding_type is {config['position_embedding_type']!r}: not supported")
    read_declared(checkpoint)


def _check_modules(checkpoint: Checkpoint) -> None:
    if not checkpoint.has_modules:
        raise ModelError(
            f"{checkpoint.folder}: {checkpoint.architecture} is served as an embedding model and needs the modules.json"
            " of sentence-transformers beside it"
        )


CROSS_ENCODER = Kind(
    "cross-encoder",
    CROSS_ENCODERS,
    lambda checkpoint: checkpoint.architecture in CROSS_ENCODERS,
    _cross_encoder,
    check_one_label,
)
EMBEDDING_MODEL = Kind(
    "embedding model",
    EMBEDDING_MODELS,
    lambda checkpoint: checkpoint.architecture in EMBEDDING_MODELS,
    _bi_encoder,
    _check_modules,
)
LATE_INTERACTION = Kind(
    "late interaction",
    (STANFORD,),
    is_late_interaction,
    _late_interaction,
    _check_late_interaction,
)
