"""The core call: limits -> scores -> rank -> usage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reranker_serve.cache import Found
from reranker_serve.calibration import Basis, Calibration, Probabilities
from reranker_serve.encoding import Query
from reranker_serve.engine.engine import Engine
from reranker_serve.engine.tokenizers import THREADS
from reranker_serve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    NoDocuments,
    TooManyDocuments,
    UnknownModel,
)
from reranker_serve.scoring import Computed, Scores, Scoring, Terms
from reranker_serve.settings import Settings
from reranker_serve.spans import with_spans
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.telemetry.tracing import Tracing
from reranker_serve.types import (
    FloatArray,
    LocatingFamily,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Scorer,
    ScoreRequest,
    Timings,
    Token,
    Usage,
)

Done = TypeVar("Done")


def _nothing() -> None:
    return None


class Reranker:
    """Serves one loaded model. Built once an event loop; `close` drains it.

    Raises `SettingsError` if `calibration` is of another model.
    """

    tokenizer_threads = THREADS

    def __init__(
        self,
        scorer: Scorer,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing | None = None,
        on_death: Callable[[], None] = _nothing,
        calibration: Calibration | None = None,
    ) -> None:
        if calibration:
            calibration.check(Basis.of(scorer, settings.instruction))
        self.scorer = scorer
        self.calibration = calibration
        budgets = [settings.token_budget(backend.batch_token_cap) for backend in scorer.backends]
        self.token_budget = max(budgets)
        self._settings = settings
        self._metrics = metrics
        self._bounds = scorer.family.max_length_bounds
        self._scoring = Scoring(scorer, settings, metrics, tracing or Tracing(), budgets, on_death)

    @property
    def engine(self) -> Engine:
        return self._scoring.engine

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Score and rank. Raises `RequestError`s; cancelling it cancels what is not computed."""
        start = time.monotonic()
        return await self._in_time(request, start, lambda terms: self._rerank(request, terms, start))

    async def _rerank(self, request: RerankRequest, terms: Terms, start: float) -> RerankResult:
        self._check_count(len(request.documents))
        query = self._query(request)
        scores = await self._score([query], terms)
        found = scores.found[0]
        best_first = np.argsort(-_raw(found), kind="stable")  # NaN, which is what has no score, goes last
        result = self._result(request, scores, found, best_first, start)
        if request.spans is None:
            return result
        ranking, read = await with_spans(self._scoring, self.scorer.family, request, query, found, result, terms)
        self._observe(read)
        return replace(
            result,
            ranking=ranking,
            usage=Usage(scores.prompt_tokens + read.prompt_tokens, read.prompt_tokens),
            timings=_timings((*scores.passes, *read.passes), start),
        )

    async def score(self, request: ScoreRequest) -> RerankResult:
        """Score pairs; the "ranking" is in the pairs' own order. Fails as a whole if one query does."""
        start = time.monotonic()
        self._check_count(sum(len(each.documents) for each in request.requests))
        queries = [self._query(each) for each in request.requests]
        scores = await self._in_time(request.requests[0], start, lambda terms: self._score(queries, terms))
        placed = {
            position: score
            for positions, part in zip(request.positions, scores.found, strict=True)
            for position, score in zip(positions, part, strict=True)
        }
        found = tuple(placed[position] for position in range(len(placed)))
        return self._result(request.requests[0], scores, found, np.arange(len(found)), start)

    async def tokenize(self, texts: Sequence[str], special: bool) -> list[list[Token]]:
        """Each text's tokens, as the model sees the text by itself."""
        return await self._scoring.encoding.tokens(texts, special)

    def close(self, timeout: float | None = None) -> int:
        """Finish what was admitted within `timeout` seconds, then stop; blocks. Returns how many were dropped."""
        return self._scoring.close(timeout)

    async def _in_time(self, request: RerankRequest, start: float, work: Callable[[Terms], Awaitable[Done]]) -> Done:
        """The result of `work`, whose terms are the request's. Raises `DeadlineExceeded`."""
        limit = self._settings.request_timeout
        seconds = limit if request.timeout is None else min(limit, request.timeout)
        partly = request.deadline is not None and request.deadline < seconds
        due = start + (request.deadline if partly and request.deadline is not None else seconds)
        try:
            async with asyncio.timeout(seconds):
                return await work(Terms(due, partly, request.priority))
        except TimeoutError:
            whose = "RERANKER_REQUEST_TIMEOUT" if seconds == limit else "the request's own timeout"
            raise DeadlineExceeded(f"not done within {seconds:g} s ({whose})") from None

    async def _score(self, queries: Sequence[Query], terms: Terms) -> Scores:
        scores = await self._scoring.score(queries, terms)
        _check_finite(scores)
        self._observe(scores)
        return scores

    def _query(self, request: RerankRequest) -> Query:
        """Limits that need no computing."""
        name = self.scorer.info.name
        if self._settings.strict_model and request.model not in (None, name):
            raise UnknownModel(f"model '{request.model}' is not served here; this server has '{name}'")
        if not request.query.strip():
            raise InvalidRequest("query must not be empty or only whitespace", "query")
        if not request.documents:
            raise NoDocuments("documents must not be empty", "documents")
        if request.instruction and not self.scorer.family.takes_instruction:
            raise InvalidRequest(f"model '{name}' takes no instruction: leave it out", "instruction")
        shortest, longest = self._bounds
        max_length = longest if request.max_length is None else request.max_length
        if not shortest <= max_length <= longest:
            raise InvalidRequest(f"max_length must be from {shortest} to {longest}, got {max_length}", "max_length")
        self._check_probability(request)
        instruction = request.instruction or self._settings.instruction
        beside = request.spans is not None and isinstance(self.scorer.family, LocatingFamily)
        return Query(request.query, request.documents, max_length, instruction, request.truncate, request.cut, beside)

    def _check_probability(self, request: RerankRequest) -> None:
        if not self._min_probability(request) or self._calibrated(request):
            return
        if self.calibration is None:
            wrong = "this server has no calibration: set RERANKER_CALIBRATION, or ask with min_score"
        else:
            wrong = "probabilities are not known for another instruction: leave that out, or set min_probability to 0"
        raise InvalidRequest(wrong, "min_probability")

    def _min_probability(self, request: RerankRequest) -> float | None:
        own = request.min_probability
        return self._settings.min_probability if own is None else own

    def _calibrated(self, request: RerankRequest) -> Calibration | None:
        """None where there are no probabilities, or none for the request's own instruction."""
        own = request.instruction or self._settings.instruction
        return self.calibration if own == self._settings.instruction else None

    def _check_count(self, documents: int) -> None:
        limit = self._settings.max_documents
        if documents > limit:
            raise TooManyDocuments(f"{documents} documents, at most {limit} are allowed in one request", "documents")

    def _result(
        self,
        request: RerankRequest,
        scores: Scores,
        found: Sequence[Found],
        order: NDArray[np.int64],
        start: float,
    ) -> RerankResult:
        raw = _raw(found)
        scaled = raw / _units(found)
        relevance = self.scorer.family.activate(scaled)
        shown = raw if request.raw_scores else relevance
        calibration = self._calibrated(request)
        probability = calibration.probability(scaled) if calibration else None
        below = self._below(request, shown, relevance, probability)
        if below is not None:
            order = order[~below[order]]
        order = order[: request.top_n or None]
        return RerankResult(
            model=self.scorer.info.name,
            ranking=tuple(
                _ranked(index, found[index], score, None if probability is None else float(probability[index]))
                for index, score in zip(order.tolist(), shown[order].tolist(), strict=True)
            ),
            query_truncated=any(score.query_truncated for score in found if score),
            usage=Usage(scores.prompt_tokens),
            timings=_timings(scores.passes, start),
            documents=len(found),
            scored=sum(score is not None for score in found),
            left_out=None if below is None else int(below.sum()),
        )

    def _below(
        self, request: RerankRequest, shown: FloatArray, relevance: FloatArray, probability: Probabilities | None
    ) -> NDArray[np.bool_] | None:
        """Which documents are below a threshold, those without a score never; None if there is no threshold."""
        limits: list[tuple[NDArray[Any], float | None]] = [(shown, request.min_score)]
        if request.min_score is None:
            limits = [(relevance, self._settings.min_score)]
        if probability is not None:
            limits.append((probability, self._min_probability(request)))
        # Compared as they are written in the reply, and not in the model's float32.
        below = [values.astype(np.float64) < least for values, least in limits if least is not None]
        return np.logical_or.reduce(below) if below else None

    def _observe(self, scores: Scores) -> None:
        self._metrics.pairs.inc(sum(score is not None for part in scores.found for score in part))
        for each in scores.passes:
            self._metrics.tokens.inc(each.tokens)
            self._metrics.queue_seconds.observe(each.queue_seconds)
            self._metrics.inference_seconds.observe(each.inference_seconds)


def _raw(found: Sequence[Found]) -> FloatArray:
    return np.array([np.nan if score is None else score.raw for score in found], dtype=np.float32)


def _units(found: Sequence[Found]) -> FloatArray:
    return np.array([1.0 if score is None else score.unit for score in found], dtype=np.float32)


def _ranked(index: int, found: Found, score: float, probability: float | None) -> RankedDocument:
    if found is None:
        return RankedDocument(index, None, truncated=False)
    return RankedDocument(index, score, found.truncated, found.chunks, found.unit, probability, tokens=found.tokens)


def _timings(passes: Sequence[Computed], start: float) -> Timings:
    return Timings(
        tokenize_ms=sum(each.tokenize_seconds for each in passes) * 1e3,
        queue_ms=sum(each.queue_seconds for each in passes) * 1e3,
        inference_ms=sum(each.inference_seconds for each in passes) * 1e3,
        total_ms=(time.monotonic() - start) * 1e3,
    )


def _check_finite(scores: Scores) -> None:
    for found in scores.found:
        for index, score in enumerate(found):
            if score is not None and not np.isfinite(score.raw):
                raise InferenceFailed(f"the model gave no finite score for document {index}")
