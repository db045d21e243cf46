"""From texts to raw scores: what is known, the tokenizer, the engine. One job a request, of one query or of many."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reranker_serve.cache import Found, PairScore, ScoreCache, pair_keys
from reranker_serve.engine.admission import Admission, CharacterBudget, Promise
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.job import Job, JobResult
from reranker_serve.engine.pace import Density
from reranker_serve.engine.tokenizers import Tokenizers
from reranker_serve.errors import RequestTooLarge, TooLong
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import WHOLE, Cut, Encoded, FloatArray, Scorer, count_tokens

# Above this many characters, cache keys are made on a thread, so that other callers do not wait for it.
_LARGE_REQUEST_CHARACTERS = 256 * 1024
# Texts that wait for the tokenizer, beside what the queue holds: so many characters a token of it.
_CHARACTERS_PER_TOKEN = 8
# A document may be cut into so many chunks, however many documents there are.
_FEW_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class Query:
    """One query with its documents, and all that changes their scores."""

    text: str
    documents: tuple[str, ...]
    max_length: int
    instruction: str | None = None
    truncate: bool = True
    cut: Cut = WHOLE


@dataclass(frozen=True, slots=True)
class Terms:
    """When it must be done: `due` in time of `time.monotonic`; with `partly`, what is done by then is enough."""

    due: float = math.inf
    partly: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Computed:
    """One pass through tokenizer and model."""

    tokens: int
    tokenize_seconds: float
    queue_seconds: float
    inference_seconds: float


@dataclass(frozen=True, slots=True)
class Scores:
    """A score a document of each query, and what was computed for them: nothing if all were known."""

    found: tuple[tuple[Found, ...], ...]
    prompt_tokens: int
    passes: tuple[Computed, ...]


# Where the query of a document stands, and the document's text.
_Pair = tuple[int, str]


@dataclass(slots=True)
class _Call:
    """A request on its way."""

    queries: Sequence[Query]
    terms: Terms
    passes: list[Computed] = field(default_factory=list)


def _nothing() -> None:
    return None


class Scoring:
    """Owns tokenizers, engine and cache. Built once an event loop; `close` drains it."""

    def __init__(
        self,
        scorer: Scorer,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing,
        token_budget: int,
        on_death: Callable[[], None] = _nothing,
    ) -> None:
        self._family = scorer.family
        self._tracing = tracing
        self._max_tokens = settings.max_queue_tokens
        admission = Admission(settings.max_queue_tokens, settings.max_queue_seconds, token_budget)
        if scorer.warm_up:
            admission.learn(*scorer.warm_up, time.monotonic())
        self.engine = Engine(
            scorer.backend,
            admission,
            token_budget,
            on_batch=metrics.batch_tokens.observe,
            on_queue=metrics.queue_tokens.set,
            on_death=on_death,
            on_pass=tracing.forward,
            pass_timeout=settings.batch_timeout,
            width=scorer.family.readout.width,
        )
        self.tokenizers = Tokenizers(CharacterBudget(_CHARACTERS_PER_TOKEN * settings.max_queue_tokens))
        self._density = Density()
        entries = settings.cache_entries
        self._cache = ScoreCache(entries, metrics.cache_hits.inc, metrics.cache_misses.inc) if entries else None
        self._model_facts = _model_facts(scorer)
        self._least_tokens = _least_tokens(scorer)
        self.engine.start()

    def close(self, timeout: float | None = None) -> int:
        """Finish what was admitted within `timeout` seconds, then stop; blocks. Returns how many were dropped."""
        dropped = self.engine.close(timeout)
        self.tokenizers.close()
        return dropped

    async def score(self, queries: Sequence[Query], terms: Terms) -> Scores:
        """Equal documents of a query are computed once, and those whose score is known not at all."""
        self.engine.check_open()
        pairs: dict[_Pair, None] = {(at, text): None for at, query in enumerate(queries) for text in query.documents}
        call = _Call(queries, terms)
        if self._cache is None:
            found = dict(zip(pairs, await self._compute(call, list(pairs)), strict=True))
        else:
            keys = dict(zip(await self._keys(queries), pairs, strict=True))
            scores = await self._cache.get(
                list(keys),
                lambda missing: self._compute(call, [keys[key] for key in missing]),
                terms.priority,
                terms.due,
                _on_loop(terms.due) if terms.partly else None,
            )
            found = dict(zip(pairs, scores, strict=True))
        return Scores(
            tuple(tuple(found[at, text] for text in query.documents) for at, query in enumerate(queries)),
            _tokens_read(found),
            tuple(call.passes),
        )

    async def _keys(self, queries: Sequence[Query]) -> list[bytes]:
        """One for each distinct document of each query, in their order."""

        def make() -> list[bytes]:
            keys: list[bytes] = []
            for query in queries:
                options = repr((query.max_length, query.instruction, query.truncate, query.cut))
                keys += pair_keys((self._model_facts, options), query.text, dict.fromkeys(query.documents))
            return keys

        if sum(sum(map(len, query.documents)) for query in queries) < _LARGE_REQUEST_CHARACTERS:
            return make()
        return await asyncio.to_thread(make)

    async def _compute(self, call: _Call, pairs: Sequence[_Pair]) -> Sequence[Found]:
        """A score for each pair, which stand in the order of their queries; None for what is not done in time."""
        start, terms = time.monotonic(), call.terms
        texts: dict[int, list[str]] = {}
        for at, text in pairs:
            texts.setdefault(at, []).append(text)
        asked = [(call.queries[at], documents) for at, documents in texts.items()]
        promise = Promise(self._guess(asked), terms.due, terms.priority, firm=not terms.partly)
        with self.engine.admitted(promise, self._least(asked)):
            encoded = await self._encode(asked, terms)
            if encoded is None:
                return [None] * len(pairs)
            tokenized = time.monotonic()
            for (query, documents), part in zip(asked, encoded, strict=True):
                if not query.truncate:
                    _check_nothing_lost(part, documents, query)
            items = [item for part in encoded for item in part.items]
            with self._tracing.queue(items):
                result = await self._outputs(self.engine.submit(items, promise), terms)
        call.passes.append(
            Computed(count_tokens(items), tokenized - start, result.queue_seconds, result.inference_seconds)
        )
        return self._read(result, encoded, [len(documents) for _, documents in asked])

    def _guess(self, asked: Sequence[tuple[Query, Sequence[str]]]) -> int:
        """Tokens that these texts may have, of which no more than the queue holds are worth guessing.

        The query counts with each document, as most models read it.
        """
        tokens = 0
        for query, documents in asked:
            most = query.max_length * query.cut.chunks
            dense = self._density.tokens(_characters(query, documents, most))
            tokens += min(dense + len(documents) * self._least_tokens, len(documents) * most)
        return min(tokens, self._max_tokens)

    def _least(self, asked: Sequence[tuple[Query, Sequence[str]]]) -> int:
        """Tokens that they have however short the texts are."""
        return sum(len(documents) * min(self._least_tokens, query.max_length) for query, documents in asked)

    async def _encode(self, asked: Sequence[tuple[Query, Sequence[str]]], terms: Terms) -> list[Encoded] | None:
        """None if that is not done in time, where less than all is enough."""
        read = sum(_characters(query, documents, query.max_length * query.cut.chunks) for query, documents in asked)

        def encode() -> list[Encoded]:
            return [self._encode_query(query, documents) for query, documents in asked]

        characters = sum(len(query.text) + sum(map(len, documents)) for query, documents in asked)
        try:
            async with asyncio.timeout_at(_on_loop(terms.due) if terms.partly else None):
                with self._tracing.tokenize():
                    encoded = await self.tokenizers.run(characters, encode)
        except TimeoutError:
            return None
        if all(query.cut.chunks == 1 for query, _ in asked):  # chunks overlap, and each has the query
            self._density.learn(read, sum(count_tokens(part.items) for part in encoded))
        return encoded

    def _most_chunks(self, query: Query, documents: Sequence[str]) -> int:
        """Chunks of a document, of which all together make no more than twice what the queue holds, or a few each."""
        held = self._max_tokens // query.max_length + 2
        return min(query.cut.chunks, max(_FEW_CHUNKS, 2 * held // len(documents)))

    def _encode_query(self, query: Query, documents: Sequence[str]) -> Encoded:
        """Raises `RequestTooLarge` if a document has so many chunks that the queue could hardly hold all."""
        most = self._most_chunks(query, documents)
        encoded = self._family.encode(
            query.text,
            documents,
            max_length=query.max_length,
            instruction=query.instruction,
            cut=dataclasses.replace(query.cut, chunks=most),
        )
        cut_off = zip(encoded.chunks or (), encoded.truncated, strict=False)
        if most < query.cut.chunks and any(chunks == most and truncated for chunks, truncated in cut_off):
            raise RequestTooLarge(
                f"a document has more than {most} chunks: send fewer documents, or ask for fewer chunks"
            )
        return encoded

    async def _outputs(self, job: Job, terms: Terms) -> JobResult:
        loop = asyncio.get_running_loop()
        timer = loop.call_at(_on_loop(terms.due), self.engine.cut, job) if terms.partly else None
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            if timer:
                timer.cancel()

    def _read(self, result: JobResult, encoded: Sequence[Encoded], documents: Sequence[int]) -> list[Found]:
        scores: list[Found] = []
        start = 0
        for part, number in zip(encoded, documents, strict=True):
            rows = slice(start, start + len(part.items))
            raw = self._family.combine(result.outputs[rows])
            scores += _pair_scores(part, raw, result.computed[rows], number)
            start = rows.stop
        return scores


def _on_loop(time_: float) -> float:
    """A time of `time.monotonic` in the event loop's, whose clock may be another."""
    return asyncio.get_running_loop().time() + time_ - time.monotonic()


def _characters(query: Query, documents: Sequence[str], most: int) -> int:
    """Characters that are read of a query with each of its documents, if `most` tokens of a document are."""
    reach = most * _CHARACTERS_PER_TOKEN
    return len(documents) * min(len(query.text), reach) + sum(min(len(text), reach) for text in documents)


def _least_tokens(scorer: Scorer) -> int:
    """What a document without any text costs: no document costs less."""
    empty = scorer.family.encode("", ("",), max_length=scorer.family.max_length_bounds[1], instruction=None)
    return min(len(item) for item in empty.items)


def _model_facts(scorer: Scorer) -> str:
    """What of the model changes a score, if only in its last bits."""
    info, family, backend = scorer.info, scorer.family, scorer.backend
    model = (info.name, info.revision, info.architecture, family.name, family.prompt, family.readout)
    return repr((*model, backend.device, backend.dtype, backend.attention))


def _tokens_read(found: dict[_Pair, Found]) -> int:
    """Those of the documents, and what the documents of a query share once a query."""
    shared: dict[int, int] = {}
    own = 0
    for (query, _), score in found.items():
        if score is not None:
            own += score.tokens
            shared[query] = max(shared.get(query, 0), score.shared_tokens)
    return own + sum(shared.values())


def _pair_scores(encoded: Encoded, raw: FloatArray, computed: NDArray[np.bool_], documents: int) -> list[Found]:
    """One a document, from one raw score a chunk; the items of the documents are the last ones.

    None for a document of which a chunk, or what all documents share, was not `computed`.
    """
    chunks = encoded.chunks or (1,) * documents
    first = len(encoded.items) - sum(chunks)
    lengths = [len(item) for item in encoded.items[first:]]
    shared = count_tokens(encoded.items) - sum(lengths)
    best = raw.tolist()
    done = (computed[first:] & computed[:first].all()).tolist()
    if len(lengths) > documents:
        starts = np.cumsum((0, *chunks[:-1]))
        lengths = np.add.reduceat(lengths, starts).tolist()
        # The best chunk's score is the document's; a NaN stays one.
        best = np.maximum.reduceat(raw, starts).tolist()
        done = np.logical_and.reduceat(done, starts).tolist()
    lost = encoded.query_truncated
    parts = zip(best, encoded.truncated, chunks, lengths, strict=True)
    return [PairScore(*part, shared, lost) if there else None for part, there in zip(parts, done, strict=True)]


def _check_nothing_lost(encoded: Encoded, documents: Sequence[str], query: Query) -> None:
    limit = f"does not fit (at most {query.max_length} tokens a pair), and truncation is off"
    if encoded.query_truncated:
        raise TooLong(f"the query {limit}", "query")
    lost = {text for text, truncated in zip(documents, encoded.truncated, strict=True) if truncated}
    for index, text in enumerate(query.documents):
        if text in lost:
            raise TooLong(f"document {index} {limit}", "documents")
