"""What peers are given, and how pair-wise ones batch it. Only the standard library: peers run this too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Pair = tuple[str, str]
# Pairs of one batch -> one raw score each
ScoreBatch = Callable[[list[Pair]], list[float]]


@dataclass(frozen=True, slots=True)
class Request:
    """One caller's question."""

    query: str
    documents: tuple[str, ...]


def pairs_of(requests: Sequence[Request]) -> list[Pair]:
    return [(request.query, document) for request in requests for document in request.documents]


def first_pairs(requests: Sequence[Request], pairs: int) -> list[Request]:
    """The same requests up to this many pairs; the last one may lose documents."""
    kept, left = [], pairs
    for request in requests:
        if left <= 0:
            break
        kept.append(Request(request.query, request.documents[:left]))
        left -= len(request.documents)
    return kept


def by_request(scores: Sequence[float], requests: Sequence[Request]) -> list[list[float]]:
    """Scores of `pairs_of(requests)` -> one list a request."""
    left = iter(scores)
    return [[next(left) for _ in request.documents] for request in requests]


def in_sorted_batches(pairs: Sequence[Pair], size: int, score: ScoreBatch) -> list[float]:
    """Score pairs in batches of like length, which is what keeps padding low; in the order given."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]), reverse=True)
    scores = [0.0] * len(pairs)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        for position, value in zip(batch, score([pairs[i] for i in batch]), strict=True):
            scores[position] = value
    return scores
