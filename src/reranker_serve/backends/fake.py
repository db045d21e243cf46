"""A scorer that needs no model: deterministic scores by shared words, for tests and load tests.

It stands behind the same contracts as a real one, so everything above it (scheduling,
dialects, errors, overload) can be tested without weights.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from reranker_serve.readouts import ClassifierReadout
from reranker_serve.types import WHOLE, Cut, Encoded, EncodedItem, FloatArray, ModelInfo, Scorer, Token

# Words end at white space and at the punctuation of ASCII.
_WORD = re.compile(r"[^\s!-/:-@[-`{-~]+")
_TO_SPACES = {ord(character): " " for character in string.punctuation}
_SEPARATOR = 0
_KNOWN_WORDS = 4096


class FakeFamily:
    """One token a word; ids are hashes of the lower-cased words, query and document apart by 0."""

    name = "fake"
    listwise = False
    readout = ClassifierReadout()
    score_scale = "relevance_score = sigmoid(raw score); raw score = shared words - 1"
    takes_instruction = False
    prompt = None
    max_length_bounds = (4, 512)

    def __init__(self) -> None:
        self._known = _Ids()

    def encode(
        self, query: str, documents: Sequence[str], *, max_length: int, instruction: str | None, cut: Cut = WHOLE
    ) -> Encoded:
        whole = _ids(query, self._known)
        query_ids = whole[: max_length // 2][: cut.query_tokens]
        room = max_length - len(query_ids) - 1
        encoded = [_ids(text, self._known) for text in documents]
        cuts = [_pieces(ids, room, cut) for ids in encoded]
        items = tuple(
            EncodedItem(np.array([*query_ids, _SEPARATOR, *part], dtype=np.int32), len(query_ids) + 1)
            for parts in cuts
            for part in parts
        )
        lost = tuple(len(ids) > _reach(room, cut) for ids in encoded)
        return Encoded(items, lost, len(query_ids) < len(whole), tuple(len(parts) for parts in cuts))

    def tokens(self, text: str, special: bool) -> list[Token]:
        words = _WORD.finditer(text)
        found = [Token(self._known[word[0].lower()], word[0], False, word.start(), word.end()) for word in words]
        return [*found, Token(_SEPARATOR, "<end>", True, None, None)] if special else found

    def combine(self, outputs: FloatArray) -> FloatArray:
        return outputs[:, 0]

    def activate(self, raw: FloatArray) -> FloatArray:
        return (1 / (1 + np.exp(-raw.astype(np.float64)))).astype(np.float32)


class FakeBackend:
    """Scores an item by how many of the query's ids its document holds.

    `computed` counts items; `before_forward`, if given, sees each batch first and may wait
    or raise.
    """

    device = "cpu"
    dtype = "float32"
    attention = "none"

    def __init__(
        self,
        before_forward: Callable[[Sequence[EncodedItem]], None] | None = None,
        batch_token_cap: int | None = None,
    ) -> None:
        self.computed = 0
        self.batch_token_cap = batch_token_cap
        self._before_forward = before_forward

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        if self._before_forward is not None:
            self._before_forward(items)
        self.computed += len(items)
        return np.array([[_shared_words(item)] for item in items], dtype=np.float32)


def fake_scorer(backend: FakeBackend | None = None, *others: FakeBackend) -> Scorer:
    """A complete scorer over the fake family, with a lane for each backend."""
    return Scorer(ModelInfo("fake", "none", "none"), FakeFamily(), (backend or FakeBackend(), *others))


class _Ids(dict[str, int]):
    """Words to ids, each computed once: a benchmark of the server should not measure this."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        self[word] = number = crc32(word.encode()) & 0x7FFFFFF | 1
        return number


def _ids(text: str, known: _Ids) -> list[int]:
    return list(map(known.__getitem__, text.lower().translate(_TO_SPACES).split()))


def _step(room: int, cut: Cut) -> int:
    return room - min(cut.overlap or 0, room // 2)


def _reach(room: int, cut: Cut) -> int:
    """Words of a document that are read at most."""
    pieces = room + (cut.chunks - 1) * _step(room, cut)
    return pieces if cut.document_tokens is None else min(pieces, cut.document_tokens)


def _pieces(ids: list[int], room: int, cut: Cut) -> list[list[int]]:
    """As `Cut` says, from the end that is kept; pieces overlap only where that is asked for."""
    forward = ids if cut.side == "right" else ids[::-1]
    kept = forward[: cut.document_tokens]
    step = _step(room, cut)
    parts = [kept[start : start + room] for start in range(0, max(1, len(kept) - room + step), step)][: cut.chunks]
    return parts if cut.side == "right" else [part[::-1] for part in parts[::-1]]


def _shared_words(item: EncodedItem) -> float:
    query, document = item.ids[: item.second_segment - 1], item.ids[item.second_segment :]
    return float(len(set(query.tolist()).intersection(document.tolist()))) - 1
