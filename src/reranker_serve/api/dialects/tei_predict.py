"""Text Embeddings Inference's classification of pairs, as a reranker answers it: one label and its score.

https://huggingface.github.io/text-embeddings-inference
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from reranker_serve.api.dialect import Dialect, Reply
from reranker_serve.api.dialects.tei import error
from reranker_serve.api.options import Options, extras
from reranker_serve.api.pairs import score_request
from reranker_serve.errors import NoDocuments
from reranker_serve.types import RerankResult, ScoreRequest

# What transformers calls the only label of a model that names none.
_LABEL = "LABEL_0"

Pair = tuple[str, str]


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _pairs(value: object) -> object:
    if _is_pair(value) or (isinstance(value, list) and all(map(_is_pair, value))):
        return value
    raise ValueError("must be a pair [query, document], or a list of pairs: this model scores pairs, not single texts")


class PredictBody(Options):
    """Score one pair, or several."""

    inputs: Annotated[Pair | list[Pair], BeforeValidator(_pairs)] = Field(
        description="`[query, document]`, or a list of such pairs"
    )


def to_core(body: PredictBody) -> ScoreRequest:
    pairs = [body.inputs] if isinstance(body.inputs, tuple) else body.inputs
    if not pairs:
        raise NoDocuments("at least one pair must be given", "inputs")
    return score_request(body, pairs)


def from_core(result: RerankResult, body: PredictBody, reply: Reply) -> list[Any]:
    """A list of the labels of one pair, or a list of such lists; no label for a pair that is below the threshold."""
    rows: list[list[dict[str, Any]]] = [[] for _ in range(result.documents)]
    for ranked in result.ranking:
        rows[ranked.index].append({"score": ranked.score, "label": _LABEL, **extras(body, ranked)})
    return rows[0] if isinstance(body.inputs, tuple) else rows


DIALECT = Dialect(
    name="tei_predict",
    vendor="Text Embeddings Inference",
    summary="Score pairs",
    paths=("/predict",),
    body=PredictBody,
    to_core=to_core,
    from_core=from_core,
    list_field="inputs",
    alone=True,
    shows_unscored=True,
    statuses="tei",
    error=error,
)
