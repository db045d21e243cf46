"""Encoders of pairs: query and document in one sequence, one number (bge, MiniLM, gte, ettin, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reranker_serve.families.cut import encode_documents, end, pieces
from reranker_serve.families.scores import sigmoid
from reranker_serve.families.tokenizer import TextEncoder, join
from reranker_serve.readouts import ClassifierReadout, HeadReadout
from reranker_serve.types import WHOLE, Cut, Encoded, FloatArray, Token


@dataclass(frozen=True, slots=True)
class PairConfig:
    """What the metadata of sentence-transformers says of the texts of a pair, and of how long one is, in tokens."""

    query_prompt: str = ""
    lowercase: bool = False
    max_length: float | None = None


class CrossEncoder:
    """Raw score = the classifier's logit; relevance = its sigmoid, applied once, here."""

    name = "cross_encoder"
    listwise = False
    score_scale = "relevance_score = sigmoid(logit), 0 to 1; raw score = the logit"
    takes_instruction = False
    prompt = None

    def __init__(
        self,
        encoder: TextEncoder,
        max_length: int,
        readout: ClassifierReadout | HeadReadout | None = None,
        query_prompt: str = "",
    ) -> None:
        self.readout = readout or ClassifierReadout()
        self._encoder = encoder
        self._query_prompt = encoder.own(query_prompt)
        # The last blank of the prompt becomes one token with the word that follows.
        self._prompt_length = len(encoder.encode([self._query_prompt.rstrip()], max_length)[0])
        self.max_length_bounds = (encoder.pair.overhead + 2, max_length)

    def encode(
        self, query: str, documents: Sequence[str], *, max_length: int, instruction: str | None, cut: Cut = WHOLE
    ) -> Encoded:
        """One item a document or chunk; see `split_budget` for what is cut when a pair is too long."""
        template, side = self._encoder.pair, self._encoder.truncation_side
        budget = max_length - template.overhead
        whole = encode_documents(self._encoder, [self._query_prompt + query], budget, Cut(side=side))[0]
        query_ids = whole if cut.query_tokens is None else whole[: self._prompt_length + cut.query_tokens]
        if side == "left":  # as the model's own library cuts, whatever is asked
            cut = replace(cut, side=side)
        items, truncated, chunks, query_truncated = [], [], [], len(query_ids) < len(whole)
        for ids in encode_documents(self._encoder, documents, budget, cut):
            wanted = len(ids) if cut.document_tokens is None else min(len(ids), cut.document_tokens)
            keep_query, keep_document = split_budget(len(query_ids), wanted, budget)
            parts, lost = pieces(ids, keep_document, cut)
            kept = end(query_ids, keep_query, side)
            items += [join(template, kept, part) for part in parts]
            truncated.append(lost)
            chunks.append(len(parts))
            query_truncated |= keep_query < len(query_ids)
        return Encoded(tuple(items), tuple(truncated), query_truncated, tuple(chunks))

    def tokens(self, text: str, special: bool) -> list[Token]:
        return self._encoder.tokens(text, special)

    def combine(self, outputs: FloatArray) -> FloatArray:
        return outputs[:, 0]

    def activate(self, raw: FloatArray) -> FloatArray:
        return sigmoid(raw)


class TwoLabels(CrossEncoder):
    """Raw score = the logit of the label `relevant` - the other's; its sigmoid is the softmax of the two."""

    score_scale = (
        "relevance_score = softmax of the two logits, 0 to 1; raw score = their difference, relevant - irrelevant"
    )

    def __init__(self, encoder: TextEncoder, max_length: int, relevant: int, query_prompt: str = "") -> None:
        super().__init__(encoder, max_length, ClassifierReadout(2), query_prompt)
        self._relevant = relevant

    def combine(self, outputs: FloatArray) -> FloatArray:
        difference: FloatArray = outputs[:, self._relevant] - outputs[:, 1 - self._relevant]
        return difference


def split_budget(query: int, document: int, budget: int) -> tuple[int, int]:
    """Tokens that query and document keep of `budget`: all if they fit, else half each.

    What one side does not need goes to the other; an odd token goes to the longer side.
    The same as `longest_first` truncation in the tokenizers library, which the published
    scores were made with.
    """
    if query + document <= budget:
        return query, document
    half = budget // 2
    if document <= half:
        return budget - document, document
    if query <= half:
        return query, budget - query
    return (budget - half, half) if query > document else (half, budget - half)
