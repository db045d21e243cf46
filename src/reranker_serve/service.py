"""The core call: limits -> encode -> engine -> rank -> usage."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from reranker_serve.cache import Key, PairScore, ScoreCache, pair_keys
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    NoDocuments,
    TooLong,
    TooManyDocuments,
    UnknownModel,
)
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import (
    Encoded,
    FloatArray,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Scorer,
    ScoreRequest,
    Timings,
    Token,
    Usage,
    count_tokens,
)

# Tokenizing releases the interpreter lock; two threads keep a large request from holding up a small one.
_TOKENIZER_THREADS = 2
# Above this many characters, cache keys are made on a tokenizer thread, so that other callers do not wait for it.
_LARGE_REQUEST_CHARACTERS = 256 * 1024


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Computed:
    """One pass through tokenizer and model."""

    scores: tuple[PairScore, ...]
    tokens: int
    tokenize_seconds: float
    queue_seconds: float
    inference_seconds: float


@dataclass(frozen=True, slots=True)
class _Scored:
    """A score a document, and what was computed for this request: nothing if all were known."""

    scores: tuple[PairScore, ...]
    raw: FloatArray
    prompt_tokens: int
    passes: tuple[_Computed, ...]


class Reranker:
    """Serves one loaded model. Built once an event loop; `close` drains it."""

    tokenizer_threads = _TOKENIZER_THREADS

    def __init__(
        self,
        scorer: Scorer,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing | None = None,
        on_death: Callable[[], None] = _nothing,
    ) -> None:
        self.scorer = scorer
        self.token_budget = token_budget(scorer, settings)
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing or Tracing()
        shortest, longest = scorer.family.max_length_bounds
        self._bounds = (shortest, longest)
        scheduler = Scheduler(settings.max_queue_tokens, turn_tokens=longest)
        self.engine = Engine(
            self._tracing.traced(scorer.backend),
            scheduler,
            self.token_budget,
            on_batch=metrics.batch_tokens.observe,
            on_queue=metrics.queue_tokens.set,
            on_death=on_death,
            pass_timeout=settings.batch_timeout,
            width=scorer.family.readout.width,
        )
        self._tokenizers = ThreadPoolExecutor(_TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        entries = settings.cache_entries
        self._cache = ScoreCache(entries, metrics.cache_hits.inc, metrics.cache_misses.inc) if entries else None
        self._model_facts = _model_facts(scorer)
        self._least_tokens = _least_tokens(scorer)
        self.engine.start()

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Score and rank. Raises `RequestError`s; cancelling it cancels what is not computed."""
        start = time.perf_counter()
        max_length = self._check(request)
        limit = self._settings.request_timeout
        seconds = limit if request.timeout is None else min(limit, request.timeout)
        try:
            async with asyncio.timeout(seconds):
                scored = await self._score(request, max_length)
        except TimeoutError:
            whose = "RERANKER_REQUEST_TIMEOUT" if seconds == limit else "the request's own timeout"
            raise DeadlineExceeded(f"not done within {seconds:g} s ({whose})") from None
        _check_finite(scored.raw)
        return self._rank(request, scored, time.perf_counter() - start)

    async def score(self, request: ScoreRequest) -> RerankResult:
        """Score pairs; the "ranking" is in the pairs' own order. Fails as a whole if one query does."""
        start = time.perf_counter()
        self._check_count(sum(len(one.documents) for one in request.requests))
        tasks = [asyncio.ensure_future(self.rerank(one)) for one in request.requests]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return _merge(request, results, (time.perf_counter() - start) * 1e3)

    async def tokenize(self, texts: Sequence[str], special: bool) -> list[list[Token]]:
        """Each text's tokens, as the model sees the text by itself."""

        def work() -> list[list[Token]]:
            return [self.scorer.family.tokens(text, special) for text in texts]

        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, work)

    def close(self, timeout: float | None = None) -> int:
        """Finish what was admitted within `timeout` seconds, then stop; blocks. Returns how many were dropped."""
        dropped = self.engine.close(timeout)
        self._tokenizers.shutdown(wait=False, cancel_futures=True)
        return dropped

    async def _score(self, request: RerankRequest, max_length: int) -> _Scored:
        """Equal documents are computed once, and those whose score is known not at all."""
        self.engine.check_open()
        unique = {text: position for position, text in enumerate(dict.fromkeys(request.documents))}
        documents = list(unique)
        passes: list[_Computed] = []

        async def compute(wanted: Sequence[str]) -> Sequence[PairScore]:
            passes.append(await self._compute(request, wanted, max_length))
            return passes[-1].scores

        if self._cache is None:
            found = await compute(documents)
        else:
            keys = await self._keys(request, documents, max_length)
            texts = dict(zip(keys, documents, strict=True))
            found = await self._cache.get(keys, lambda some: compute([texts[key] for key in some]), request.priority)
        scores = tuple(found[unique[text]] for text in request.documents)
        return _Scored(
            scores,
            np.array([score.raw for score in scores], dtype=np.float32),
            sum(score.tokens for score in found) + max(score.shared_tokens for score in found),
            tuple(passes),
        )

    async def _keys(self, request: RerankRequest, documents: Sequence[str], max_length: int) -> list[Key]:
        options = repr((max_length, self._instruction(request), request.truncate, request.cut))

        def make() -> list[Key]:
            return pair_keys((self._model_facts, options), request.query, documents)

        if sum(map(len, documents)) < _LARGE_REQUEST_CHARACTERS:
            return make()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, make)

    async def _compute(self, request: RerankRequest, documents: Sequence[str], max_length: int) -> _Computed:
        start = time.perf_counter()
        # A request that cannot be admitted, however short its texts are, is refused before they are tokenized.
        self.engine.check_room(len(documents) * min(self._least_tokens, max_length))
        with self._tracing.tokenize():
            encoded = await self._encode(request, documents, max_length)
        tokenized = time.perf_counter()
        if not request.truncate:
            _check_nothing_lost(encoded, documents, request.documents, max_length)
        with self._tracing.queue(encoded.items):
            job = await asyncio.wrap_future(self.engine.submit(encoded.items, request.priority))
        raw = self.scorer.family.combine(job.outputs)
        return _Computed(
            _pair_scores(encoded, raw, len(documents)),
            count_tokens(encoded.items),
            tokenized - start,
            job.queue_seconds,
            job.inference_seconds,
        )

    def _instruction(self, request: RerankRequest) -> str | None:
        return request.instruction or self._settings.instruction

    async def _encode(self, request: RerankRequest, documents: Sequence[str], max_length: int) -> Encoded:
        instruction = self._instruction(request)

        def encode() -> Encoded:
            return self.scorer.family.encode(
                request.query, documents, max_length=max_length, instruction=instruction, cut=request.cut
            )

        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, encode)

    def _check(self, request: RerankRequest) -> int:
        """Limits that need no computing; returns the request's max_length."""
        name = self.scorer.info.name
        if self._settings.strict_model and request.model not in (None, name):
            raise UnknownModel(f"model '{request.model}' is not served here; this server has '{name}'")
        if not request.query.strip():
            raise InvalidRequest("query must not be empty or only whitespace", "query")
        if not request.documents:
            raise NoDocuments("documents must not be empty", "documents")
        self._check_count(len(request.documents))
        if request.instruction and not self.scorer.family.takes_instruction:
            raise InvalidRequest(f"model '{name}' takes no instruction: leave it out", "instruction")
        shortest, longest = self._bounds
        max_length = longest if request.max_length is None else request.max_length
        if not shortest <= max_length <= longest:
            raise InvalidRequest(f"max_length must be from {shortest} to {longest}, got {max_length}", "max_length")
        return max_length

    def _check_count(self, documents: int) -> None:
        limit = self._settings.max_documents
        if documents > limit:
            raise TooManyDocuments(f"{documents} documents, at most {limit} are allowed in one request", "documents")

    def _rank(self, request: RerankRequest, scored: _Scored, seconds: float) -> RerankResult:
        scores = scored.raw if request.raw_scores else self.scorer.family.activate(scored.raw)
        best_first = np.argsort(-scored.raw, kind="stable")[: request.top_n or None]
        self._observe(scored, len(request.documents))
        return RerankResult(
            model=self.scorer.info.name,
            ranking=tuple(
                RankedDocument(index, score, scored.scores[index].truncated, scored.scores[index].chunks)
                for index, score in zip(best_first.tolist(), scores[best_first].tolist(), strict=True)
            ),
            query_truncated=any(score.query_truncated for score in scored.scores),
            usage=Usage(scored.prompt_tokens),
            timings=Timings(
                tokenize_ms=sum(each.tokenize_seconds for each in scored.passes) * 1e3,
                queue_ms=sum(each.queue_seconds for each in scored.passes) * 1e3,
                inference_ms=sum(each.inference_seconds for each in scored.passes) * 1e3,
                total_ms=seconds * 1e3,
            ),
        )

    def _observe(self, scored: _Scored, documents: int) -> None:
        self._metrics.pairs.inc(documents)
        for each in scored.passes:
            self._metrics.tokens.inc(each.tokens)
            self._metrics.queue_seconds.observe(each.queue_seconds)
            self._metrics.inference_seconds.observe(each.inference_seconds)


def token_budget(scorer: Scorer, settings: Settings) -> int:
    """Tokens of one forward pass: what is configured, capped where the device gains nothing from more."""
    configured = settings.batch_size * settings.max_length
    cap = scorer.backend.batch_token_cap
    return configured if cap is None else min(configured, cap)


def _least_tokens(scorer: Scorer) -> int:
    """What a document without any text costs: no document costs less."""
    empty = scorer.family.encode("", ("",), max_length=scorer.family.max_length_bounds[1], instruction=None)
    return min(len(item) for item in empty.items)


def _check_finite(raw: FloatArray) -> None:
    finite = np.isfinite(raw)
    if not finite.all():
        raise InferenceFailed(f"the model gave no finite score for document {int(np.argmin(finite))}")


def _model_facts(scorer: Scorer) -> str:
    """What of the model changes a score, if only in its last bits."""
    info, family, backend = scorer.info, scorer.family, scorer.backend
    model = (info.name, info.revision, info.architecture, family.name, family.prompt, family.readout)
    return repr((*model, backend.device, backend.dtype, backend.attention))


def _pair_scores(encoded: Encoded, raw: FloatArray, documents: int) -> tuple[PairScore, ...]:
    """One a document, from one raw score a chunk; the items of the documents are the last ones."""
    chunks = encoded.chunks or (1,) * documents
    lengths = [len(item) for item in encoded.items[len(encoded.items) - sum(chunks) :]]
    shared = count_tokens(encoded.items) - sum(lengths)
    best = raw.tolist()
    if len(lengths) > documents:
        starts = np.cumsum((0, *chunks[:-1]))
        lengths = np.add.reduceat(lengths, starts).tolist()
        # The best chunk's score is the document's; a NaN stays one.
        best = np.maximum.reduceat(raw, starts).tolist()
    lost = encoded.query_truncated
    return tuple(PairScore(*pair, shared, lost) for pair in zip(best, encoded.truncated, chunks, lengths, strict=True))


def _check_nothing_lost(encoded: Encoded, documents: Sequence[str], requested: Sequence[str], max_length: int) -> None:
    limit = f"does not fit (at most {max_length} tokens a pair), and truncation is off"
    if encoded.query_truncated:
        raise TooLong(f"the query {limit}", "query")
    lost = {text for text, truncated in zip(documents, encoded.truncated, strict=True) if truncated}
    for index, text in enumerate(requested):
        if text in lost:
            raise TooLong(f"document {index} {limit}", "documents")


def _merge(request: ScoreRequest, results: Sequence[RerankResult], total_ms: float) -> RerankResult:
    placed = {
        positions[ranked.index]: dataclasses.replace(ranked, index=positions[ranked.index])
        for positions, result in zip(request.positions, results, strict=True)
        for ranked in result.ranking
    }
    timings = [result.timings for result in results]
    return RerankResult(
        model=results[0].model,
        ranking=tuple(placed[index] for index in sorted(placed)),
        query_truncated=any(result.query_truncated for result in results),
        usage=Usage(sum(result.usage.prompt_tokens for result in results)),
        timings=Timings(
            tokenize_ms=max(part.tokenize_ms for part in timings),
            queue_ms=max(part.queue_ms for part in timings),
            inference_ms=max(part.inference_ms for part in timings),
            total_ms=total_ms,
        ),
    )
