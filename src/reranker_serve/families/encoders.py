"""Encoders as kinds of models: classifiers of pairs, and embedding models."""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.bi_encoder import BiEncoder, read_embedding_config
from reranker_serve.families.cross_encoder import CrossEncoder, TwoLabels
from reranker_serve.families.kinds import Kind, refuse_prompt
from reranker_serve.families.labels import relevant_label
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
    "CamembertForSequenceClassification",
    "XLMRobertaXLForSequenceClassification",
    "MPNetForSequenceClassification",
    "AlbertForSequenceClassification",
    "ErnieForSequenceClassification",
    "DebertaForSequenceClassification",
    "EuroBertForSequenceClassification",
    "NomicBertForSequenceClassification",
    "RoFormerForSequenceClassification",
    "JinaEmbeddingsV3ForSequenceClassification",
    "GteForSequenceClassification",
)
_ROTARY = ("rope", "rotary")
_ROTARY_CLASSIFIERS = (
    "ModernBertForSequenceClassification",
    "EuroBertForSequenceClassification",
    "NomicBertForSequenceClassification",
    "RoFormerForSequenceClassification",
    "JinaEmbeddingsV3ForSequenceClassification",
    "GteForSequenceClassification",
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
    encoder = TextEncoder(checkpoint.folder, checkpoint.vocabulary, trusted=settings.trust_text)
    if "max_length" not in settings.model_fields_set:
        max_length = int(min(max_length, encoder.longest))
    relevant = relevant_label(checkpoint)
    return CrossEncoder(encoder, max_length) if relevant is None else TwoLabels(encoder, max_length, relevant)


def _bi_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    config = read_embedding_config(checkpoint)
    encoder = TextEncoder(
        checkpoint.folder,
        checkpoint.vocabulary,
        own=(config.query_prompt, config.document_prompt),
        lowercase=config.lowercase,
        trusted=settings.trust_text,
    )
    if encoder.truncation_side == "left":
        raise ModelError(
            f"{checkpoint.folder / 'tokenizer_config.json'}: truncation_side is left, which would take the prompt of an"
            " embedding model: it is not supported; set it to right, and long texts lose their end"
        )
    if "max_length" not in settings.model_fields_set and config.max_length:
        max_length = int(min(max_length, config.max_length))
    return BiEncoder(encoder, config, checkpoint.hidden_size, max_length)


def _check_classifier(checkpoint: Checkpoint) -> None:
    _check_positions(checkpoint)
    relevant_label(checkpoint)


def _check_positions(checkpoint: Checkpoint) -> None:
    """transformers ignores the key: a class has the positions it has."""
    declared = checkpoint.config.get("position_embedding_type", "absolute")
    if declared != "absolute" and not (declared in _ROTARY and checkpoint.architecture in _ROTARY_CLASSIFIERS):
        raise ModelError(
            f"{checkpoint.folder / 'config.json'}: position_embedding_type is {declared!r}, which transformers'"
            f" {checkpoint.architecture} does not compute, so its scores would be wrong: use another model"
        )


def _check_modules(checkpoint: Checkpoint) -> None:
    _check_positions(checkpoint)
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
    _check_classifier,
)
EMBEDDING_MODEL = Kind(
    "embedding model",
    EMBEDDING_MODELS,
    lambda checkpoint: checkpoint.architecture in EMBEDDING_MODELS,
    _bi_encoder,
    _check_modules,
)
