"""The sentences that make a document relevant: each is read by the model as if it were a document.

With its neighbours around it a sentence cost twice the tokens, and the right one came first less often
(docs/quality.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reranker_serve.cache import Found
from reranker_serve.encoding import Query
from reranker_serve.errors import InferenceFailed, RequestTooLarge
from reranker_serve.places import Place, Span, SpanOptions
from reranker_serve.scoring import Scores, Scoring, Terms
from reranker_serve.types import Cut, Family, FloatArray, RankedDocument, RerankRequest, RerankResult

# Of relevance, where a request names no threshold.
_THRESHOLD = 0.1


@dataclass(frozen=True, slots=True)
class Sentence:
    """Where it is, the model's own score of it, and the raw score that counts as one."""

    place: Place
    raw: float
    unit: float


# Of a document; None where there was no time to read them all.
Sentences = Sequence[Sentence] | None
_NOTHING = Scores((), 0, ())


async def with_spans(
    scoring: Scoring,
    family: Family,
    request: RerankRequest,
    query: Query,
    found: Sequence[Found],
    result: RerankResult,
    terms: Terms,
) -> tuple[tuple[RankedDocument, ...], Scores]:
    """The ranking with the relevant spans of each document, and what was computed for them alone.

    What was scored beside its document is not read again. Raises as `Scoring.score` does, and `InferenceFailed`.
    """
    options = request.spans or SpanOptions()
    known = {ranked.index: _known(found[ranked.index]) for ranked in result.ranking if ranked.score is not None}
    unread = [index for index, sentences in known.items() if sentences is None]
    scores = _NOTHING
    if unread and not (terms.partly and time.monotonic() >= terms.due):
        documents = tuple(query.documents[index] for index in unread)
        read, scores = await _read(scoring, family, replace(query, documents=documents, sentences=False), terms)
        known |= dict(zip(unread, read, strict=True))
    spans = {
        index: best(family, sentences, options, request.raw_scores)
        for index, sentences in known.items()
        if sentences is not None
    }
    return tuple(replace(ranked, spans=spans.get(ranked.index)) for ranked in result.ranking), scores


def best(family: Family, sentences: Sequence[Sentence], options: SpanOptions, raw_scores: bool) -> tuple[Span, ...]:
    """Those that reach the threshold, best first; of equal ones the earlier. Raises `InferenceFailed`."""
    raw: FloatArray = np.array([sentence.raw for sentence in sentences], dtype=np.float32)
    if not np.isfinite(raw).all():
        raise InferenceFailed("the model gave no finite score for a sentence")
    units: FloatArray = np.array([sentence.unit for sentence in sentences], dtype=np.float32)
    relevance = family.activate(raw / units)
    shown = raw if raw_scores else relevance
    compared, least = (relevance, _THRESHOLD) if options.threshold is None else (shown, options.threshold)
    enough = (compared.astype(np.float64) >= least).tolist()  # as the reply has them, and not in float32
    order = [at for at in np.argsort(-raw, kind="stable").tolist() if enough[at]]
    best_first = [(sentences[at].place, float(shown[at])) for at in order[: options.max_spans]]
    return tuple(Span(start, end, score) for (start, end), score in best_first)


async def _read(scoring: Scoring, family: Family, query: Query, terms: Terms) -> tuple[list[Sentences], Scores]:
    """The sentences of each of the query's documents, read by the model."""
    try:
        places = await scoring.encoding.sentences(query)
        queries = _queries(family, query, places)
        scores = await scoring.score(queries, terms) if queries else _NOTHING
    except RequestTooLarge as error:
        raise RequestTooLarge(f"of the relevant spans: {error}, or for fewer documents with top_n") from None
    each = iter([score for part in scores.found for score in part])
    read: list[Sentences] = []
    for own in places:
        parts = [(place, next(each)) for place in own]
        done = [Sentence(place, score.raw, score.unit) for place, score in parts if score is not None]
        read.append(done if len(done) == len(own) else None)
    return read, scores


def _known(score: Found) -> Sentences:
    if score is None or score.sentences is None:
        return None
    edges, raw = score.sentences
    parts = zip(edges[::2], edges[1::2], raw, strict=True)
    return [Sentence((start, stop), own, score.unit) for start, stop, own in parts]


def _queries(family: Family, query: Query, places: Sequence[Sequence[Place]]) -> list[Query]:
    """Their sentences as documents: of all documents in one list, or of each in its own where a list is read whole."""
    texts = [tuple(text[start:stop] for start, stop in own) for text, own in zip(query.documents, places, strict=True)]
    lists = texts if family.listwise else [tuple(sentence for own in texts for sentence in own)]
    plain = replace(query, truncate=True, cut=Cut(query_tokens=query.cut.query_tokens))
    return [replace(plain, documents=documents) for documents in lists if documents]
