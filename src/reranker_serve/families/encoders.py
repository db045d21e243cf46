"""Encoders as kinds of models: classifiers of pairs, and embedding models."""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.bi_encoder import BiEncoder, read_embedding_config
from reranker_serve.families.cross_encoder import CrossEncoder
from reranker_serve.families.kinds import Kind, check_one_label, refuse_prompt
from reranker_serve.families.modular import has_head, read_head, read_pair_config
from reranker_serve.families.modules import read_max_length
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
# Those that a head in modules of its own may stand behind.
ENCODERS = (*EMBEDDING_MODELS, "DebertaV2Model")


def _cross_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    encoder = TextEncoder(checkpoint.folder, checkpoint.vocabulary)
    return CrossEncoder(encoder, max_length, texts=read_pair_config(checkpoint))


def _modular_cross_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    encoder = TextEncoder(checkpoint.folder, checkpoint.vocabulary)
    most = _narrowed(max_length, read_max_length(checkpoint), settings)
    return CrossEncoder(encoder, most, read_head(checkpoint), read_pair_config(checkpoint))


def _bi_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    encoder = TextEncoder(checkpoint.folder, checkpoint.vocabulary)
    config = read_embedding_config(checkpoint)
    return BiEncoder(encoder, config, checkpoint.hidden_size, _narrowed(max_length, config.max_length, settings))


def _narrowed(max_length: int, declared: float | None, settings: Settings) -> int:
    """No more tokens than a folder of sentence-transformers declares, unless more were asked for."""
    return int(min(max_length, declared)) if declared and "max_length" not in settings.model_fields_set else max_length


def _check_modules(checkpoint: Checkpoint) -> None:
    if not checkpoint.has_modules:
        raise ModelError(
            f"{checkpoint.folder}: {checkpoint.architecture} is served as an embedding model and needs the modules.json"
            " of sentence-transformers beside it"
        )


def _check_head(checkpoint: Checkpoint) -> None:
    read_head(checkpoint)


CROSS_ENCODER = Kind(
    "cross-encoder",
    CROSS_ENCODERS,
    lambda checkpoint: checkpoint.architecture in CROSS_ENCODERS,
    _cross_encoder,
    check_one_label,
)
MODULAR_CROSS_ENCODER = Kind(
    "modular cross-encoder",
    ENCODERS,
    lambda checkpoint: checkpoint.architecture in ENCODERS and has_head(checkpoint),
    _modular_cross_encoder,
    _check_head,
)
EMBEDDING_MODEL = Kind(
    "embedding model",
    EMBEDDING_MODELS,
    lambda checkpoint: checkpoint.architecture in EMBEDDING_MODELS,
    _bi_encoder,
    _check_modules,
)
