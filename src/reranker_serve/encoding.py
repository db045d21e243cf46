"""From texts to the tokens that the model reads: in slices, so that nothing is tokenized for nobody."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from threading import Event

from reranker_serve.engine.admission import CharacterBudget
from reranker_serve.engine.pace import Density
from reranker_serve.engine.tokenizers import Tokenizers
from reranker_serve.errors import RequestTooLarge, TooLong
from reranker_serve.places import Place, Sentences
from reranker_serve.sentences import owners, sentences
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import (
    WHOLE,
    Cut,
    Encoded,
    EncodedItem,
    Family,
    LocatingFamily,
    Token,
    TokenArray,
    count_tokens,
)

# Texts that wait for the tokenizer, beside what the queue holds: so many characters a token of it.
_CHARACTERS_PER_TOKEN = 8
# A document may be cut into so many chunks, however many documents there are.
_FEW_CHUNKS = 64
# Sentences of one document that are looked at; and the characters of one, at least, at most, and a token of a sequence.
_MOST_SENTENCES = 1000
_SHORTEST, _LONGEST, _CHARACTERS_OF_SENTENCE = 32, 1000, 2
# What is tokenized in one go, some 20 ms of it: then it is asked whether the rest is still wanted.
_SLICE_CHARACTERS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Query:
    """One query with its documents, and all that changes their scores.

    With `sentences` those of a document are scored beside it by the same vectors, where the family is one that can.
    """

    text: str
    documents: tuple[str, ...]
    max_length: int
    instruction: str | None = None
    truncate: bool = True
    cut: Cut = WHOLE
    sentences: bool = False

    @property
    def reach(self) -> int:
        """Characters of a text of which more are not read."""
        return self.max_length * self.cut.chunks * _CHARACTERS_PER_TOKEN


# Documents of a query: some of its own, each once.
Asked = Sequence[tuple[Query, Sequence[str]]]


class Encoding:
    """Owns the tokenizer's threads. Built once an event loop."""

    def __init__(self, family: Family, max_tokens: int, tracing: Tracing) -> None:
        self._family = family
        self._tracing = tracing
        self._max_tokens = max_tokens
        self._tokenizers = Tokenizers(CharacterBudget(_CHARACTERS_PER_TOKEN * max_tokens))
        self._density = Density()
        self._least_tokens = _least_tokens(family)

    def close(self) -> None:
        self._tokenizers.close()

    def guess(self, asked: Asked) -> int:
        """Tokens that these texts may have, of which no more than the queue holds are worth guessing.

        The query counts with each document, as most models read it; of a list twice.
        """
        tokens = 0
        for query, documents in asked:
            most = query.max_length * query.cut.chunks
            dense = self._density.tokens(self._characters(query, documents))
            tokens += min(dense + len(documents) * self._least_tokens, len(documents) * most)
        return min(tokens, self._max_tokens)

    def least(self, asked: Asked) -> int:
        """Tokens that they have however short the texts are."""
        return sum(len(documents) * min(self._least_tokens, query.max_length) for query, documents in asked)

    async def tokens(self, texts: Sequence[str], special: bool) -> list[list[Token]]:
        """Each text's tokens, as the model sees the text by itself."""
        characters = sum(map(len, texts))
        return await self._tokenizers.run(characters, lambda: [self._family.tokens(text, special) for text in texts])

    async def sentences(self, query: Query) -> list[tuple[Place, ...]]:
        """Where those of each document are, the first thousand.

        When cancelled it stops soon. Raises `RequestTooLarge` where the queue could hardly hold them all.
        """
        given_up = Event()
        characters = sum(map(len, query.documents))
        try:
            return await self._tokenizers.run(characters, lambda: self._all_sentences(query, given_up))
        except asyncio.CancelledError:
            given_up.set()
            raise

    def _all_sentences(self, query: Query, given_up: Event) -> list[tuple[Place, ...]]:
        """On a thread."""
        left = self._max_tokens // max(1, self._least_tokens)
        found: list[tuple[Place, ...]] = []
        for text in query.documents:
            found.append(() if given_up.is_set() else tuple(_sentences(query, text)))
            left -= len(found[-1])
            if left < 0:
                raise RequestTooLarge("more sentences than the queue holds: send fewer documents")
        return found

    async def encode(self, asked: Asked, until: float = math.inf) -> list[Encoded]:
        """What the model reads for them, one a query; of as many of them, the first ones, as are tokenized at `until`.

        That is a time of `time.monotonic`; something is tokenized in any case. When cancelled it stops soon.
        Raises `RequestTooLarge` if a document has so many chunks that the queue could hardly hold all, `TooLong` if
        text would be lost that must not be, and `Overloaded` if there is too much to tokenize already.
        """
        given_up = Event()
        characters = sum(len(query.text) + sum(map(len, documents)) for query, documents in asked)
        try:
            with self._tracing.tokenize():
                done = await self._tokenizers.run(characters, lambda: self._encode(asked, until, given_up))
        except asyncio.CancelledError:
            given_up.set()
            raise
        self._learn(asked, done)
        return done

    def _encode(self, asked: Asked, until: float, given_up: Event) -> list[Encoded]:
        """On a thread."""
        done: list[Encoded] = []
        for query, documents in asked:
            most = self._most_chunks(query, documents)
            parts: list[Encoded] = []
            for some in [documents] if self._family.listwise else _slices(query, documents):
                if given_up.is_set() or ((done or parts) and time.monotonic() >= until):
                    break
                parts.append(self._encode_slice(query, some, most))
            if parts:
                done.append(_merge(parts))
            if sum(len(part.truncated) for part in parts) < len(documents):
                break
        return done

    def _encode_slice(self, query: Query, documents: Sequence[str], most: int) -> Encoded:
        encoded = self._family.encode(
            query.text,
            documents,
            max_length=query.max_length,
            instruction=query.instruction,
            cut=dataclasses.replace(query.cut, chunks=most),
        )
        cut_off = zip(encoded.chunks, encoded.truncated, strict=True)
        if most < query.cut.chunks and any(chunks == most and truncated for chunks, truncated in cut_off):
            raise RequestTooLarge(
                f"a document has more than {most} chunks: send fewer documents, or ask for fewer chunks"
            )
        if not query.truncate:
            _check_nothing_lost(encoded, documents, query)
        if query.sentences and isinstance(self._family, LocatingFamily):
            places = self._family.locate(encoded, documents, max_length=query.max_length, cut=query.cut)
            found = map(partial(_located, query), documents, places)
            return dataclasses.replace(encoded, sentences=tuple(found))
        return encoded

    def _learn(self, asked: Asked, done: Sequence[Encoded]) -> None:
        if any(query.cut.chunks > 1 for query, _ in asked):  # chunks overlap, and each has the query
            return
        read = zip(asked, done, strict=False)
        characters = sum(self._characters(query, documents[: len(part.truncated)]) for (query, documents), part in read)
        self._density.learn(characters, sum(count_tokens(part.items) for part in done))

    def _characters(self, query: Query, documents: Sequence[str]) -> int:
        """Characters that are read of a query and its documents."""
        reach = query.reach
        times = 2 if self._family.listwise else len(documents)
        return times * min(len(query.text), reach) + sum(min(len(text), reach) for text in documents)

    def _most_chunks(self, query: Query, documents: Sequence[str]) -> int:
        """Chunks of a document, of which all together make no more than twice what the queue holds, or a few each."""
        held = self._max_tokens // query.max_length + 2
        return min(query.cut.chunks, max(_FEW_CHUNKS, 2 * held // len(documents)))


def _slices(query: Query, documents: Sequence[str]) -> Iterator[Sequence[str]]:
    reach, start, characters = query.reach, 0, 0
    for stop, text in enumerate(documents, start=1):
        characters += min(len(text), reach)
        if characters >= _SLICE_CHARACTERS or stop == len(documents):
            yield documents[start:stop]
            start, characters = stop, 0


def _merge(parts: Sequence[Encoded]) -> Encoded:
    """Slices of one query's documents as if they had been encoded at once.

    What all documents share is computed once: an item of the query's stands before them once, and equal prefixes
    become the very same array.
    """
    if len(parts) == 1:
        return parts[0]
    prefixes = {item.prefix.tobytes(): item.prefix for part in parts for item in part.items if item.prefix is not None}

    def shared(item: EncodedItem) -> EncodedItem:
        return item if item.prefix is None else dataclasses.replace(item, prefix=prefixes[item.prefix.tobytes()])

    own = [part.items[0 if at == 0 else part.first :] for at, part in enumerate(parts)]
    return Encoded(
        tuple(shared(item) for items in own for item in items),
        tuple(lost for part in parts for lost in part.truncated),
        any(part.query_truncated for part in parts),
        tuple(chunks for part in parts for chunks in part.chunks),
        parts[0].unit,
        sentences=tuple(each for part in parts for each in part.sentences),
    )


def _sentences(query: Query, text: str) -> Iterator[Place]:
    """The first ones, each found when it is its turn."""
    longest = min(max(_SHORTEST, _CHARACTERS_OF_SENTENCE * query.max_length), _LONGEST)
    return islice(sentences(text, longest), _MOST_SENTENCES)


def _located(query: Query, text: str, places: TokenArray | None) -> Sentences | None:
    if places is None:
        return None
    last = places.max(initial=-1)
    found = tuple(takewhile(lambda place: place[0] <= last, _sentences(query, text)))
    return Sentences(found, owners(found, places))


def _least_tokens(family: Family) -> int:
    """What a document without any text costs: no document costs less."""
    longest = family.max_length_bounds[1]
    one, two = (family.encode("", [""] * number, max_length=longest, instruction=None) for number in (1, 2))
    # Of a list it is what a second one adds, as the rest is there for all.
    return count_tokens(two.items) - count_tokens(one.items)


def _check_nothing_lost(encoded: Encoded, documents: Sequence[str], query: Query) -> None:
    whole = "document" if encoded.blocks else "pair"
    limit = f"does not fit (at most {query.max_length} tokens a {whole}), and truncation is off"
    if encoded.query_truncated:
        raise TooLong(
            "the query does not fit, and truncation is off" if encoded.blocks else f"the query {limit}", "query"
        )
    lost = {text for text, truncated in zip(documents, encoded.truncated, strict=True) if truncated}
    for index, text in enumerate(query.documents):
        if text in lost:
            raise TooLong(f"document {index} {limit}", "documents")
