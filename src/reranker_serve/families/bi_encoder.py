"""Embedding models as rerankers: query and documents encoded once each, compared by cosine.

Reads the ordinary sentence-transformers folder: `modules.json` lists a Transformer, a Pooling
and perhaps a Normalize; the prompts are in `config_sentence_transformers.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.cut import encode_documents, framed_pieces
from reranker_serve.families.modules import read_modules
from reranker_serve.families.tokenizer import TextEncoder, join
from reranker_serve.types import WHOLE, Cut, Encoded, FloatArray, PooledReadout, Pooling, Token

# The pooling names of sentence-transformers 5.x and later; before, one `pooling_mode_*` flag each.
_POOLING: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_POOLING_FLAG = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
# Where each side's prompt is looked for, in this order, as the reference of sentence-transformers'
# encode_query and encode_document tells; neither falls back to `default_prompt_name`.
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_NO_TAIL = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class EmbeddingConfig:
    """What a sentence-transformers folder declares about itself."""

    pooling: Pooling
    query_prompt: str
    document_prompt: str
    lowercase: bool
    max_length: int | None


class BiEncoder:
    """Raw score = cosine of query and document; relevance = the cosine clipped at 0."""

    name = "bi_encoder"
    listwise = False
    score_scale = "relevance_score = cosine similarity clipped at 0, 0 to 1; raw score = the cosine, -1 to 1"
    takes_instruction = False
    prompt = None

    def __init__(self, encoder: TextEncoder, config: EmbeddingConfig, width: int, max_length: int) -> None:
        self._encoder = encoder
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
        vectors = outputs.astype(np.float64)
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
    pooling = checkpoint.read(modules[1].config, {})
    declared = checkpoint.read("config_sentence_transformers.json", {})
    tokenizer = checkpoint.read("tokenizer_config.json", {})
    transformer = checkpoint.read(str(Path(modules[0].path, "sentence_bert_config.json")), {})
    prompts = declared.get("prompts") or {}
    query_prompt = _first(prompts, _QUERY_PROMPTS)
    document_prompt = _first(prompts, _DOCUMENT_PROMPTS)
    if pooling.get("include_prompt") is False and (query_prompt or document_prompt):
        raise ModelError(f"{folder}: a prompt that is left out of pooling (include_prompt: false) is not supported")
    return EmbeddingConfig(
        pooling=_pooling_mode(folder, pooling),
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        lowercase=bool(transformer.get("do_lower_case")),
        max_length=transformer.get("max_seq_length") or tokenizer.get("model_max_length"),
    )


def _pooling_mode(folder: Path, config: dict[str, Any]) -> Pooling:
    declared = config.get("pooling_mode")
    if declared is None:
        flags = [mode for flag, mode in _POOLING_FLAG.items() if config.get(flag)]
        declared = flags[0] if len(flags) == 1 else flags
    if not isinstance(declared, str) or declared not in _POOLING:
        raise ModelError(f"{folder}: pooling {declared} is not supported; supported are {', '.join(_POOLING)}")
    return _POOLING[declared]


def _first(prompts: dict[str, str], names: Sequence[str]) -> str:
    return next((prompts[name] for name in names if name in prompts), "") or ""
