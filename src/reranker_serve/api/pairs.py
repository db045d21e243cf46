"""Pairs of a query and a document, scored in their own order: what score APIs ask for."""

from __future__ import annotations

from collections.abc import Sequence

from reranker_serve.api.options import Options, core_request
from reranker_serve.types import ScoreRequest


def score_request(options: Options, pairs: Sequence[tuple[str, str]]) -> ScoreRequest:
    """The core request for these pairs; each query is asked once."""
    positions: dict[str, list[int]] = {}
    for position, (query, _) in enumerate(pairs):
        positions.setdefault(query, []).append(position)
    return ScoreRequest(
        tuple(
            core_request(options, query, tuple(pairs[position][1] for position in of_query))
            for query, of_query in positions.items()
        ),
        tuple(tuple(of_query) for of_query in positions.values()),
    )
