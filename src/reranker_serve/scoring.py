"""From texts to raw scores: what is known, the tokenizer, the engine. One job a request, of one query or of many."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from reranker_serve.cache import Found, PairScore, ScoreCache, pair_keys
from reranker_serve.encoding import Asked, Encoding, Query
from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.job import Job, JobResult
from reranker_serve.sentences import by_owner
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import Encoded, FloatArray, Outputs, Scorer, count_tokens

# Above this many characters, cache keys are made on a thread, so that other callers do not wait for it.
_LARGE_REQUEST_CHARACTERS = 256 * 1024
# Of the time that is left to a request that takes what there is, the share in which its texts are tokenized before
# the model reads them; then comes the same share of the rest.
_TOKENIZE_SHARE = 0.5


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
    """Owns tokenizer, engine and cache. Built once an event loop; `close` drains it."""

    def __init__(
        self,
        scorer: Scorer,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing,
        token_budgets: Sequence[int],
        on_death: Callable[[], None] = _nothing,
    ) -> None:
        self._family = scorer.family
        self._tracing = tracing
        admission = Admission(settings.max_queue_tokens, settings.max_queue_seconds, token_budgets)
        for lane, warm_up in enumerate(scorer.warm_ups):
            admission.learn(*warm_up, time.monotonic(), lane)
        self.engine = Engine(
            scorer.backends,
            admission,
            on_batch=metrics.batch,
            on_queue=metrics.queue_tokens.set,
            on_wait=metrics.waiting_seconds.set,
            on_loss=metrics.lane_lost,
            on_death=on_death,
            on_pass=tracing.forward,
            pass_timeout=settings.batch_timeout,
            width=scorer.family.readout.width,
        )
        self.encoding = Encoding(scorer.family, settings.max_queue_tokens, tracing)
        entries = settings.cache_entries
        keeps = entries and not scorer.family.listwise
        self._cache = ScoreCache(entries, metrics.cache_hits.inc, metrics.cache_misses.inc) if keeps else None
        self._model_facts = _model_facts(scorer)
        metrics.lanes([lane.device for lane in self.engine.lanes])
        self.engine.start()

    def close(self, timeout: float | None = None) -> int:
        """Finish what was admitted within `timeout` seconds, then stop; blocks. Returns how many were dropped."""
        dropped = self.engine.close(timeout)
        self.encoding.close()
        return dropped

    async def score(self, queries: Sequence[Query], terms: Terms) -> Scores:
        """Equal documents of a query are computed once, and those whose score is known not at all; but each one where
        a score depends on the whole list."""
        self.engine.check_open()
        pairs = [(at, text) for at, query in enumerate(queries) for text in query.documents]
        call = _Call(queries, terms)
        if self._family.listwise:
            scores = await self._compute(call, pairs)
            read = list(zip(pairs, scores, strict=True))
        else:
            found = await self._distinct(call, list(dict.fromkeys(pairs)))
            scores = [found[pair] for pair in pairs]
            read = list(found.items())
        rest = iter(scores)
        return Scores(
            tuple(tuple(islice(rest, len(query.documents))) for query in queries),
            _tokens_read(read),
            tuple(call.passes),
        )

    async def _distinct(self, call: _Call, pairs: Sequence[_Pair]) -> dict[_Pair, Found]:
        """A score for each of these, no two of which are equal."""
        if self._cache is None:
            return dict(zip(pairs, await self._compute(call, pairs), strict=True))
        terms = call.terms
        keys = dict(zip(await self._keys(call.queries), pairs, strict=True))
        scores = await self._cache.get(
            list(keys),
            lambda missing: self._compute(call, [keys[key] for key in missing]),
            terms.priority,
            terms.due,
            _on_loop(terms.due) if terms.partly else None,
        )
        return dict(zip(pairs, scores, strict=True))

    async def _keys(self, queries: Sequence[Query]) -> list[bytes]:
        """One for each distinct document of each query, in their order."""

        def make() -> list[bytes]:
            keys: list[bytes] = []
            for query in queries:
                options = repr((query.max_length, query.instruction, query.truncate, query.cut, query.sentences))
                keys += pair_keys((self._model_facts, options), query.text, dict.fromkeys(query.documents))
            return keys

        if sum(sum(map(len, query.documents)) for query in queries) < _LARGE_REQUEST_CHARACTERS:
            return make()
        return await asyncio.to_thread(make)

    async def _compute(self, call: _Call, pairs: Sequence[_Pair]) -> Sequence[Found]:
        """A score for each pair, which stand in the order of their queries; None for what is not done in time.

        Who takes what is done in time gets it in rounds, as else there might be nothing but tokens by then.
        """
        terms, asked = call.terms, _asked(call, pairs)
        promise = Promise(self.encoding.guess(asked), terms.due, terms.priority, firm=not terms.partly)
        found: list[Found] = []
        with self.engine.admitted(promise, self.encoding.least(asked)):
            while len(found) < len(pairs) and (not found or time.monotonic() < terms.due):
                scores = await self._round(call, _asked(call, pairs[len(found) :]), promise)
                if not scores:
                    break
                found += scores
        return found + [None] * (len(pairs) - len(found))

    async def _round(self, call: _Call, asked: Asked, promise: Promise) -> list[Found]:
        """Scores of as many documents, the first ones, as are tokenized early enough."""
        start = time.monotonic()
        encoded = await self._encode(asked, call.terms, start)
        items = [item for part in encoded for item in part.items]
        if not items:
            return []
        tokenized = time.monotonic()
        with self._tracing.queue(items):
            result = await self._outputs(self.engine.submit(items, promise), call.terms)
        call.passes.append(
            Computed(count_tokens(items), tokenized - start, result.queue_seconds, result.inference_seconds)
        )
        if isinstance(result.outputs, list):  # vectors, of which to make scores takes time
            return await asyncio.to_thread(self._read, result, encoded)
        return self._read(result, encoded)

    async def _encode(self, asked: Asked, terms: Terms, now: float) -> list[Encoded]:
        if not terms.partly:
            return await self.encoding.encode(asked)
        try:
            async with asyncio.timeout_at(_on_loop(terms.due)):
                return await self.encoding.encode(asked, until=now + _TOKENIZE_SHARE * (terms.due - now))
        except TimeoutError:
            return []

    async def _outputs(self, job: Job, terms: Terms) -> JobResult:
        loop = asyncio.get_running_loop()
        timer = loop.call_at(_on_loop(terms.due), self.engine.cut, job) if terms.partly else None
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            if timer:
                timer.cancel()

    def _read(self, result: JobResult, encoded: Sequence[Encoded]) -> list[Found]:
        scores: list[Found] = []
        start = 0
        for part in encoded:
            rows = slice(start, start + len(part.items))
            raw = self._family.combine(result.outputs[rows])
            found = _pair_scores(part, raw, result.computed[rows])
            scores += self._with_sentences(found, part, result.outputs[rows]) if part.sentences else found
            start = rows.stop
        return scores

    def _with_sentences(self, found: Sequence[Found], encoded: Encoded, outputs: Outputs) -> list[Found]:
        """Beside the documents' scores those of their sentences, each by the vectors that stand in it."""
        items = iter(outputs[encoded.first :])
        owned: list[dict[int, FloatArray]] = []
        for score, chunks, there in zip(found, encoded.chunks, encoded.sentences, strict=True):
            vectors = np.concatenate(list(islice(items, chunks)))
            owned.append(by_owner(vectors, there.owners) if score and there else {})
        parts = [part for own in owned for part in own.values()]
        raw = iter(self._family.combine([*outputs[: encoded.first], *parts]).tolist())
        beside: list[Found] = []
        for score, own, there in zip(found, owned, encoded.sentences, strict=True):
            if score and there:
                places = array("i", (edge for number in own for edge in there.places[number]))
                score = replace(score, sentences=(places, array("f", islice(raw, len(own)))))
            beside.append(score)
        return beside


def _asked(call: _Call, pairs: Sequence[_Pair]) -> Asked:
    texts: dict[int, list[str]] = {}
    for at, text in pairs:
        texts.setdefault(at, []).append(text)
    return [(call.queries[at], documents) for at, documents in texts.items()]


def _on_loop(time_: float) -> float:
    """A time of `time.monotonic` in the event loop's, whose clock may be another."""
    return asyncio.get_running_loop().time() + time_ - time.monotonic()


def _model_facts(scorer: Scorer) -> str:
    """What of the model changes a score, if only in its last bits."""
    info, family, backend = scorer.info, scorer.family, scorer.backend
    model = (info.name, info.revision, info.architecture, family.name, family.prompt, family.readout)
    return repr((*model, scorer.device, backend.dtype, backend.attention))


def _tokens_read(found: Sequence[tuple[_Pair, Found]]) -> int:
    """Those of the documents, and what the documents of a query share once a query."""
    shared: dict[int, int] = {}
    own = 0
    for (query, _), score in found:
        if score is not None:
            own += score.tokens
            shared[query] = max(shared.get(query, 0), score.shared_tokens)
    return own + sum(shared.values())


def _pair_scores(encoded: Encoded, raw: FloatArray, computed: NDArray[np.bool_]) -> list[Found]:
    """One a document, from one raw score a chunk.

    None for a document of which a chunk, or what all documents share, was not `computed`.
    """
    if encoded.blocks:
        return _block_scores(encoded, raw, computed)
    chunks, first = encoded.chunks, encoded.first
    lengths = [len(item) for item in encoded.items[first:]]
    shared = count_tokens(encoded.items) - sum(lengths)
    best = raw.tolist()
    done = (computed[first:] & computed[:first].all()).tolist()
    if len(lengths) > len(chunks):
        starts = np.cumsum((0, *chunks[:-1]))
        lengths = np.add.reduceat(lengths, starts).tolist()
        # The best chunk's score is the document's; a NaN stays one.
        best = np.maximum.reduceat(raw, starts).tolist()
        done = np.logical_and.reduceat(done, starts).tolist()
    rest = shared, encoded.query_truncated, encoded.unit
    parts = zip(best, encoded.truncated, chunks, lengths, strict=True)
    return [PairScore(*part, *rest) if there else None for part, there in zip(parts, done, strict=True)]


def _block_scores(encoded: Encoded, raw: FloatArray, computed: NDArray[np.bool_]) -> list[Found]:
    """One a document, from one raw score each; None where its block was not `computed`."""
    tokens = [own for block in encoded.blocks for own in block]
    done = np.repeat(computed, [len(block) for block in encoded.blocks]).tolist()
    parts = zip(raw.tolist(), encoded.truncated, encoded.chunks, tokens, strict=True)
    rest = 0, encoded.query_truncated, encoded.unit
    return [PairScore(*part, *rest) if there else None for part, there in zip(parts, done, strict=True)]
