"""Listwise models: all documents of a request stand in one causal sequence, and are told apart by markers.

The recipe is that of `rerank` in https://huggingface.co/jinaai/jina-reranker-v3, with one intended difference: text is
data. Its pieces are tokenized apart where no word of the tokenizer can cross: behind a line's end, and behind a digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reranker_serve.errors import InvalidRequest, ModelError
from reranker_serve.families.cut import encode_documents, pieces
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.readouts import VectorsReadout
from reranker_serve.types import WHOLE, Cut, Encoded, EncodedItem, FloatArray, Token, TokenArray

PROMPT = "jina-reranker-v3"
BLOCK_DOCUMENTS = 125
DOCUMENT_TOKENS = 2048
QUERY_TOKENS = 512
# Their hidden states are a document's vector and the query's. The recipe takes these spellings out of texts.
MARKERS = ("<|embed_token|>", "<|rerank_token|>")

_SYSTEM = (
    "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based on how"
    " relevant they are to the query. If the query is a question, how relevant a passage is depends on how well it"
    " answers the question. If not, try to analyze the intent of the query and assess how well each passage satisfies"
    " the intent. If an instruction is provided, you should follow the instruction when determining the ranking."
    "<|im_end|>\n<|im_start|>user\n"
)
_ASK = (
    "I will provide you with {} passages, each indicated by a numerical identifier. Rank the passages based on their"
    " relevance to query: "
)
_OPEN, _CLOSE = '<passage id="', "\n</passage>\n"
_BEFORE_DOCUMENT = '">\n'
_BEFORE_QUERY = "<query>\n"
_END = "\n</query><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", *MARKERS)
_NOTHING = np.empty(0, dtype=np.int32)
_LEAST_NORM = np.float32(1e-8)


@dataclass(frozen=True, slots=True)
class _Question:
    """Texts and ids of a request that are the same in each of its blocks."""

    query: str
    instruction: TokenArray


class Listwise:
    """Raw score = cosine of the vectors of a document and the query; relevance = that, clipped at 0.

    A score depends on the other documents and on their order, which is the caller's.
    """

    name = "listwise"
    listwise = True
    takes_instruction = True
    prompt = PROMPT
    score_scale = (
        "relevance_score = cosine, clipped at 0, 0 to 1; raw score = cosine, -1 to 1; both depend on the other"
        " documents of the request and their order"
    )

    def __init__(
        self,
        folder: Path,
        readout: VectorsReadout,
        positions: int,
        document_tokens: int,
        vocabulary: int | None,
        trusted: bool = False,
    ) -> None:
        self.readout = readout
        own = (_SYSTEM, _END, *_CONTROL)
        self._encoder = TextEncoder(folder, vocabulary, own=own, control=_CONTROL, trusted=trusted)
        self._positions = positions
        spelled = [self._encoder.own(piece) for piece in own]
        self._system, self._end, *control = self._encoder.encode(spelled, len(_SYSTEM))
        split = [token for token, ids in zip(_CONTROL, control, strict=True) if len(ids) != 1]
        if split:
            raise ModelError(
                f"{folder}: its tokenizer has no single token for {' and '.join(split)}, which the prompt {PROMPT}"
                " needs: these are not the files of such a reranker"
            )
        self._document_marker, self._query_marker = control[-2:]
        opens = [f"{_CLOSE if number else ''}{_OPEN}{number}" for number in range(BLOCK_DOCUMENTS)]
        self._opens = self._encoder.encode(opens, len(opens[-1]))
        template = len(self._block(self._encoder.encode([_BEFORE_DOCUMENT], 1), _Question("", _NOTHING))[0])
        room = positions - template - 2 * QUERY_TOKENS
        if room < 1:
            raise ModelError(
                f"{folder / 'config.json'}: max_position_embeddings is {positions}, of which the prompt {PROMPT} leaves"
                " no room for documents"
            )
        self._beside_texts = template
        self.max_length_bounds = (1, min(document_tokens, room))

    def encode(
        self, query: str, documents: Sequence[str], *, max_length: int, instruction: str | None, cut: Cut = WHOLE
    ) -> Encoded:
        """One item a block of documents, in their order; `max_length` counts the tokens of one document's text.

        A document is one piece, whatever `cut.chunks` says. Raises `InvalidRequest` if the instruction leaves no room.
        """
        most = max_length if cut.document_tokens is None else min(max_length, cut.document_tokens)
        most_asked = QUERY_TOKENS if cut.query_tokens is None else min(QUERY_TOKENS, cut.query_tokens)
        ((text, query_tokens, query_lost),) = self._cut([_without_markers(query)], most_asked, WHOLE)
        question = _Question(text, self._encode_instruction(instruction))
        capacity = self._positions - 2 * query_tokens - len(question.instruction)
        if instruction and capacity < self._beside_texts + most:
            raise InvalidRequest(f"the instruction leaves no room for {most} tokens: shorten it", "instruction")
        kept = self._cut([_without_markers(text) for text in documents], most, replace(cut, chunks=1))
        bodies = self._encoder.encode([_BEFORE_DOCUMENT + text for text, _, _ in kept], self._positions)
        blocks, start = [], 0
        for size in block_sizes([length for _, length, _ in kept], capacity, most):
            blocks.append(self._block(bodies[start : start + size], question))
            start += size
        return Encoded(
            tuple(item for item, _ in blocks),
            tuple(lost for _, _, lost in kept),
            query_lost,
            (1,) * len(documents),
            blocks=tuple(tokens for _, tokens in blocks),
        )

    def tokens(self, text: str, special: bool) -> list[Token]:
        return self._encoder.tokens(text, special)

    def combine(self, outputs: Sequence[FloatArray]) -> FloatArray:
        """Of each block the vectors of its documents and of the query: every document against one query's vector.

        That is the mean over the blocks, each weighing as much as its best document: max (1 + cosine) / 2. A block that
        was not computed is zeros and adds nothing.
        """
        weights = np.array([(1 + cosines(vectors[:-1], vectors[-1]).max()) / 2 for vectors in outputs])
        query = weights.astype(np.float32) @ np.stack([vectors[-1] for vectors in outputs])
        return np.concatenate([cosines(vectors[:-1], query) for vectors in outputs])

    def activate(self, raw: FloatArray) -> FloatArray:
        return np.clip(raw, 0.0, 1.0)

    def _encode_instruction(self, text: str | None) -> TokenArray:
        if not text:
            return _NOTHING
        return self._encoder.encode([f"<instruct>\n{_without_markers(text)}\n</instruct>\n"], self._positions)[0]

    def _cut(self, texts: Sequence[str], most: int, cut: Cut) -> list[tuple[str, int, bool]]:
        """What is read of each text, as text, how many tokens it has, and whether others were lost."""
        found = []
        for text, ids in zip(texts, encode_documents(self._encoder, texts, most, cut), strict=True):
            (kept, *_), lost = pieces(ids, most, cut)
            found.append((self._encoder.decode(kept) if lost else text, len(kept), lost))
        return found

    def _block(self, bodies: Sequence[TokenArray], question: _Question) -> tuple[EncodedItem, tuple[int, ...]]:
        """A sequence, and how many of its tokens count as each document's: what comes last counts with the last."""
        ask = _ASK.format(len(bodies)) + question.query + "\n"
        again = f"{_CLOSE}{_BEFORE_QUERY}{question.query}"
        asked, asked_again = self._encoder.encode([ask, again], self._positions)
        parts = [self._system, asked, question.instruction]
        ends = []
        for opening, body in zip(self._opens, bodies, strict=False):
            parts += [opening, body, self._document_marker]
            ends.append(len(parts))
        parts += [asked_again, self._query_marker]
        ends.append(len(parts))
        parts.append(self._end)
        ids = np.concatenate(parts)
        lengths = np.cumsum([len(part) for part in parts])
        read = lengths[np.array(ends) - 1] - 1
        tokens = np.diff([0, *(read[:-2] + 1), len(ids)])
        return EncodedItem(ids, len(ids), read=read.astype(np.int32)), tuple(tokens.tolist())


def block_sizes(lengths: Sequence[int], capacity: int, most: int) -> list[int]:
    """How many documents of so many tokens, at most `most`, stand in each sequence of `capacity` tokens.

    A sequence ends where a longest document might not fit any more; the template's tokens are not counted, so one may
    be longer by them than the model was trained for.
    """
    sizes, size, left = [], 0, capacity
    for length in lengths:
        size, left = size + 1, left - length
        if size == BLOCK_DOCUMENTS or left <= most:
            sizes.append(size)
            size, left = 0, capacity
    return [*sizes, size] if size else sizes


def cosines(vectors: FloatArray, query: FloatArray) -> FloatArray:
    """[n, width] and [width] -> [n]; 0 where a vector is zeros."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.asarray(vectors @ query / np.maximum(norms, _LEAST_NORM), dtype=np.float32)


def _without_markers(text: str) -> str:
    for marker in MARKERS:
        text = text.replace(marker, "")
    return text
