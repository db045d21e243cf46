"""Embedding models as rerankers: query and documents encoded once each, compared by cosine.

Reads the ordinary sentence-transformers folder: `modules.json` lists a Transformer, a Pooling
and perhaps a Normalize; the prompts are in `config_sentence_transformers.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.cut import encode_documents, framed_pieces
from reranker_serve.families.modules import read_modules, read_pooling
from reranker_serve.families.tokenizer import TextEncoder, join
from reranker_serve.families.transformer_module import check_transformer, read_max_length, read_transformer
from reranker_serve.readouts import PooledReadout, Pooling
from reranker_serve.types import WHOLE, Cut, Encoded, FloatArray, Token

# Where each side's prompt is looked for, in this order, as the reference of sentence-transformers'
# encode_query and encode_document tells; neither falls back to `default_prompt_name`.
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_DECLARED = "config_sentence_transformers.json"
_NO_TAIL = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class EmbeddingConfig:
    """What a sentence-transformers folder declares about itself."""

    pooling: Pooling
    query_prompt: str
    document_prompt: str
    lowercase: bool
    max_length: float | None
    dimensions: int | None = None


class BiEncoder:
    """Raw score = cosine of query and document; relevance = the cosine clipped at 0."""

    name = "bi_encoder"
    listwise = False
    score_scale = "relevance_score = cosine similarity clipped at 0, 0 to 1; raw score = the cosine, -1 to 1"
    takes_instruction = False
    prompt = None

    def __init__(self, encoder: TextEncoder, config: EmbeddingConfig, width: int, max_length: int) -> None:
        self._encoder = encoder
        self._dimensions = config.dimensions
        self.readout = PooledReadout(config.pooling, width)
        self._query_prompt, self._document_prompt = map(encoder.own, (config.query_prompt, config.document_prompt))
        self._query_head = self._tokens_of_prompt(self._query_prompt)
        self._document_head = self._tokens_of_prompt(self._document_prompt)
        self.max_length_bounds = (encoder.single.overhead + 1, max_length)

    def encode(
        self, query: str, documents: Sequence[str], *, max_length: int, instruction: str | None, cut: Cut = WHOLE
    ) -> Encoded:
        """The query's item first, then one a document or chunk."""
        template = self._encoder.single
        budget = max_length - template.overhead
        whole = self._encoder.encode([self._query_prompt + query], budget)[0]
        most = budget if cut.query_tokens is None else min(budget, self._query_head + cut.query_tokens)
        items, truncated, chunks = [join(template, whole[:most])], [], []
        head = self._document_head
        for ids in encode_documents(self._encoder, documents, budget, cut, self._dress_document, head):
            parts, lost = framed_pieces(ids, head, _NO_TAIL, budget, cut)
            items += [join(template, part) for part in parts]
            truncated.append(lost)
            chunks.append(len(parts))
        return Encoded(tuple(items), tuple(truncated), len(whole) > most, tuple(chunks))

    def tokens(self, text: str, special: bool) -> list[Token]:
        return self._encoder.tokens(text, special)

    def _dress_document(self, text: str) -> str:
        return self._document_prompt + text

    def _tokens_of_prompt(self, prompt: str) -> int:
        # The last blank of a prompt becomes one token with the word that follows.
        return len(self._encoder.encode([prompt.rstrip()], len(prompt))[0])

    def combine(self, outputs: FloatArray) -> FloatArray:
        vectors = outputs[:, : self._dimensions].astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.maximum(norms, 1e-12)
        cosine: FloatArray = (unit[1:] @ unit[0]).astype(np.float32)
        return cosine

    def activate(self, raw: FloatArray) -> FloatArray:
        # Rounding can carry the cosine of equal vectors past 1.
        return np.clip(raw, 0.0, 1.0)


def read_embedding_config(checkpoint: Checkpoint) -> EmbeddingConfig:
    """Read `modules.json` and what it points to. Raises `ModelError` on a part we do not have."""
    folder = checkpoint.folder
    modules = read_modules(checkpoint)
    kinds = [module.kind for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{folder}: the modules {', '.join(kinds) or '(none)'} are not supported;"
            " an embedding model may have Transformer, Pooling and Normalize"
        )
    declared = checkpoint.read_object(_DECLARED)
    check_transformer(checkpoint)
    _, transformer = read_transformer(checkpoint)
    prompts = _prompts(checkpoint, declared)
    query_prompt = _first(prompts, _QUERY_PROMPTS)
    document_prompt = _first(prompts, _DOCUMENT_PROMPTS)
    pooling = read_pooling(checkpoint, modules[1], prompted=bool(query_prompt or document_prompt))
    dimensions = _dimensions(checkpoint, declared)
    _check_measure(checkpoint, declared, normalized="Normalize" in kinds and dimensions is None)
    return EmbeddingConfig(
        pooling=pooling,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        lowercase=bool(transformer.get("do_lower_case")),
        max_length=read_max_length(checkpoint),
        dimensions=dimensions,
    )


def _dimensions(checkpoint: Checkpoint, declared: Mapping[str, Any]) -> int | None:
    """How many of a vector's numbers are compared, the first ones; None for all."""
    value = declared.get("truncate_dim")
    if value is not None and (type(value) is not int or not 0 < value <= checkpoint.hidden_size):
        raise ModelError(
            f"{checkpoint.folder / _DECLARED}: truncate_dim is {value!r}, not a number of dimensions from 1 to"
            f" {checkpoint.hidden_size}"
        )
    return value


def _check_measure(checkpoint: Checkpoint, declared: Mapping[str, Any], *, normalized: bool) -> None:
    """Scores are cosines: the dot product is one of vectors that are normalized, and no other measure is."""
    name = declared.get("similarity_fn_name")
    if name not in (None, "cosine") and not (name == "dot" and normalized):
        raise ModelError(
            f"{checkpoint.folder / _DECLARED}: similarity_fn_name is {name!r}; supported are cosine, and dot of"
            " normalized vectors"
        )


def _prompts(checkpoint: Checkpoint, declared: Mapping[str, Any]) -> dict[str, str]:
    prompts = declared.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ModelError(f"{checkpoint.folder / _DECLARED}: prompts is {prompts!r}, not an object of texts")
    return prompts


def _first(prompts: dict[str, str], names: Sequence[str]) -> str:
    return next((prompts[name] for name in names if name in prompts), "") or ""
