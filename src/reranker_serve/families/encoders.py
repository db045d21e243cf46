"""Encoders as kinds of models: classifiers of pairs, and embedding models."""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.bi_encoder import BiEncoder, read_embedding_config
from reranker_serve.families.cross_encoder import CrossEncoder, TwoLabels
from reranker_serve.families.kinds import Kind, check_encoder, narrowed, refuse_prompt
from reranker_serve.families.labels import relevant_label
from reranker_serve.families.modular import check_modules, has_head, read_head, read_pair_config
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.families.transformer_module import check_transformer, read_max_length
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
    texts, relevant = read_pair_config(checkpoint), relevant_label(checkpoint)
    encoder = _encoder(checkpoint, settings, texts.lowercase, texts.query_prompt)
    most = narrowed(max_length, texts.max_length or encoder.longest, settings)
    if relevant is None:
        return CrossEncoder(encoder, most, query_prompt=texts.query_prompt)
    return TwoLabels(encoder, most, relevant, texts.query_prompt)


def _modular_cross_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    texts = read_pair_config(checkpoint)
    encoder = _encoder(checkpoint, settings, texts.lowercase, texts.query_prompt)
    most = narrowed(max_length, read_max_length(checkpoint), settings)
    return CrossEncoder(encoder, most, read_head(checkpoint), texts.query_prompt)


def _bi_encoder(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    config = read_embedding_config(checkpoint)
    encoder = _encoder(checkpoint, settings, config.lowercase, config.query_prompt, config.document_prompt)
    if encoder.truncation_side == "left":
        raise ModelError(
            f"{checkpoint.folder / 'tokenizer_config.json'}: truncation_side is left, which would take the prompt of an"
            " embedding model: it is not supported; set it to right, and long texts lose their end"
        )
    return BiEncoder(encoder, config, checkpoint.hidden_size, narrowed(max_length, config.max_length, settings))


def _encoder(checkpoint: Checkpoint, settings: Settings, lowercase: bool, *prompts: str) -> TextEncoder:
    folder, trusted = checkpoint.folder, settings.trust_text
    return TextEncoder(folder, checkpoint.vocabulary, own=prompts, lowercase=lowercase, trusted=trusted)


def _check_classifier(checkpoint: Checkpoint) -> None:
    check_encoder(checkpoint)
    check_modules(checkpoint, "sequence-classification", "Transformer")
    relevant_label(checkpoint)


def _check_modules(checkpoint: Checkpoint) -> None:
    check_encoder(checkpoint)
    if not checkpoint.has_modules:
        raise ModelError(
            f"{checkpoint.folder}: {checkpoint.architecture} is served as an embedding model and needs the modules.json"
            " of sentence-transformers beside it"
        )


def _check_head(checkpoint: Checkpoint) -> None:
    check_encoder(checkpoint)
    check_transformer(checkpoint)
    read_head(checkpoint)


CROSS_ENCODER = Kind(
    "cross-encoder",
    CROSS_ENCODERS,
    lambda checkpoint: checkpoint.architecture in CROSS_ENCODERS,
    _cross_encoder,
    _check_classifier,
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
