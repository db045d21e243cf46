"""Late interaction (ColBERT): a vector for each token of query and documents, compared by MaxSim.

The query is encoded once for all documents of a request. What a folder declares is read by `late_config.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from reranker_serve.families.cut import encode_documents, framed_pieces
from reranker_serve.families.tokenizer import Template, TextEncoder, join
from reranker_serve.readouts import VectorsReadout
from reranker_serve.types import WHOLE, Cut, Encoded, EncodedItem, FloatArray, Token, TokenArray

# Of documents that are compared at once: 8 MB of 128 numbers each.
_VECTORS_AT_ONCE = 16 * 1024
# Multiplications of a product up to which OpenBLAS starts no threads.
_PRODUCT_OF_ONE_THREAD = 64**3
_NO_TAIL = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Side:
    """How the texts of one side are read: `marker` after the first token, then `prompt` and text, `length` in all.

    `head` is how many tokens the prompt has.
    Vectors of the ids `skipped` are not read.
    """

    marker: tuple[int, ...]
    prompt: str
    head: int
    length: int
    skipped: frozenset[int]


@dataclass(frozen=True, slots=True)
class Expansion:
    """A query of fewer than `length` tokens is filled up with `token`, which are read as well.

    Without `attended` they attend to the query, and no token to them.
    """

    token: int
    length: int
    attended: bool


@dataclass(frozen=True, slots=True)
class LateInteractionConfig:
    """What a folder declares. With `mean` a score is divided by the number of the query's vectors."""

    query: Side
    document: Side
    expansion: Expansion | None
    mean: bool
    readout: VectorsReadout


class LateInteraction:
    """Raw score = MaxSim, for each vector of the query the largest dot product with one of the document, in sum;
    relevance = that divided by the number of the query's vectors, clipped to 0..1.

    https://arxiv.org/abs/2004.12832; the rules for tokens are those of sentence-transformers' MultiVectorEncoder.
    """

    name = "late_interaction"
    listwise = False
    takes_instruction = False
    prompt = None

    def __init__(self, encoder: TextEncoder, config: LateInteractionConfig) -> None:
        self._encoder = encoder
        self._config = config
        self.readout = config.readout
        self._query = _Reader(encoder, config.query)
        self._document = _Reader(encoder, config.document)
        least = 1 + max(reader.template.overhead + reader.head for reader in (self._query, self._document))
        self.max_length_bounds = (least, max(config.query.length, config.document.length))

    @property
    def score_scale(self) -> str:
        raw = "mean" if self._config.mean else "sum"
        return (
            "relevance_score = mean over the query's vectors of the largest cosine with a vector of the document,"
            f" clipped at 0, 0 to 1; raw score = their {raw}"
        )

    def encode(
        self, query: str, documents: Sequence[str], *, max_length: int, instruction: str | None, cut: Cut = WHOLE
    ) -> Encoded:
        """The query's item first, then one a document or chunk."""
        first, query_truncated = self._encode_query(query, max_length, cut)
        items, truncated, chunks = [first], [], []
        reader = self._document
        room = min(self._config.document.length, max_length) - reader.template.overhead
        for ids in encode_documents(self._encoder, documents, room, cut, reader.dress, reader.head):
            parts, lost = framed_pieces(ids, reader.head, _NO_TAIL, room, cut)
            items += [reader.item(part) for part in parts]
            truncated.append(lost)
            chunks.append(len(parts))
        vectors = 1 if self._config.mean or first.read is None else len(first.read)
        return Encoded(tuple(items), tuple(truncated), query_truncated, tuple(chunks), float(vectors))

    def locate(
        self, encoded: Encoded, documents: Sequence[str], *, max_length: int, cut: Cut
    ) -> list[TokenArray | None]:
        """As `LocatingFamily` has it: not known where a text was cut so that other tokens came of it."""
        reader = self._document
        room = min(self._config.document.length, max_length) - reader.template.overhead
        located = self._encoder.located([reader.dress(text) for text in documents], room * cut.chunks)
        items = iter(encoded.items[encoded.first :])
        places = []
        for chunks, (ids, last) in zip(encoded.chunks, located, strict=True):
            parts, _ = framed_pieces(np.arange(len(ids), dtype=np.int32), reader.head, _NO_TAIL, room, cut)
            places.append(reader.places(list(islice(items, chunks)), parts, ids, last))
        return places

    def _encode_query(self, text: str, max_length: int, cut: Cut) -> tuple[EncodedItem, bool]:
        """The query's item, and whether tokens were lost."""
        reader, expansion = self._query, self._config.expansion
        budget = min(self._config.query.length, max_length) - reader.template.overhead
        whole = self._encoder.encode([reader.dress(text)], budget)[0]
        most = budget if cut.query_tokens is None else min(budget, reader.head + cut.query_tokens)
        kept = whole[:most]
        if expansion is None:
            return reader.item(kept), len(whole) > most
        missing = max(0, min(expansion.length, max_length) - reader.template.overhead - len(kept))
        return reader.item(kept, (expansion.token,) * missing, expansion.attended), len(whole) > most

    def tokens(self, text: str, special: bool) -> list[Token]:
        return self._encoder.tokens(text, special)

    def combine(self, outputs: Sequence[FloatArray]) -> FloatArray:
        query, documents = outputs[0], outputs[1:]
        scores = max_sim(query, documents)
        return scores / np.float32(len(query)) if self._config.mean else scores

    def activate(self, raw: FloatArray) -> FloatArray:
        return np.clip(raw, 0.0, 1.0)


class _Reader:
    """Texts of one side to items."""

    def __init__(self, encoder: TextEncoder, side: Side) -> None:
        single = encoder.single
        self.template = Template((*single.head, *side.marker), (), single.tail)
        self._prompt = side.prompt
        self.head = side.head
        self._skipped = np.zeros(max(side.skipped, default=0) + 2, dtype=np.bool_)
        self._skipped[list(side.skipped)] = True

    def dress(self, text: str) -> str:
        return self._prompt + text

    def places(
        self, items: Sequence[EncodedItem], parts: Sequence[TokenArray], ids: TokenArray, last: TokenArray
    ) -> TokenArray | None:
        """For each vector of these items, the last character of the text itself that it stands for, -1 for none.

        The items should be `parts` of a text's ids, whose `last` characters these are. None if they are not.
        """
        if [item.ids.tolist() for item in items] != [join(self.template, ids[part]).ids.tolist() for part in parts]:
            return None
        around = len(self.template.head), len(self.template.tail)
        own = np.maximum(last - len(self._prompt), -1)
        wholes = [np.pad(own[part], around, constant_values=-1) for part in parts]
        return np.concatenate([whole[item.read] for item, whole in zip(items, wholes, strict=True)])

    def item(self, ids: TokenArray, filling: tuple[int, ...] = (), attended: bool = True) -> EncodedItem:
        """The template around the ids, and after it `filling`, to which none attends unless it is `attended`."""
        item = join(self.template, ids)
        whole = np.concatenate([item.ids, np.array(filling, dtype=np.int32)])
        last = len(self._skipped) - 1  # stands for all ids behind it
        read = np.flatnonzero(~self._skipped[np.minimum(whole, last)]).astype(np.int32)
        return replace(item, ids=whole, second_segment=len(whole), read=read, unseen=0 if attended else len(filling))


def max_sim(query: FloatArray, documents: Sequence[FloatArray]) -> FloatArray:
    """[query's vectors, width], and [vectors, width] of each document -> one sum a document."""
    scores = np.empty(len(documents), dtype=np.float32)
    lengths = [len(vectors) for vectors in documents]
    start = 0
    while start < len(documents):
        stop = start + max(1, int(np.searchsorted(np.cumsum(lengths[start:]), _VECTORS_AT_ONCE, side="right")))
        begins = np.cumsum([0, *lengths[start : stop - 1]])
        largest = np.maximum.reduceat(_products(query, documents[start:stop]), begins)
        scores[start:stop] = largest.sum(axis=1)
        start = stop
    return scores


def _products(query: FloatArray, documents: Sequence[FloatArray]) -> FloatArray:
    """Of every vector of the documents, one after the other, with every one of the query: [vectors, query's vectors].

    In products that are small enough for one thread: the model computes with all of them, and to wait for its threads
    takes ten times as long as this.
    """
    vectors, width = sum(map(len, documents)), query.shape[1]
    rows = max(1, _PRODUCT_OF_ONE_THREAD // query.size)
    blocks = np.zeros((-(-vectors // rows), rows, width), dtype=np.float32)
    np.concatenate(documents, out=blocks.reshape(-1, width)[:vectors])
    products: FloatArray = np.matmul(blocks, np.ascontiguousarray(query.T)).reshape(-1, len(query))[:vectors]
    return products
