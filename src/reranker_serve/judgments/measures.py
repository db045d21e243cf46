"""How good rankings are, query by query, and how alike."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from reranker_serve.judgments.collection import Grades, Run
from reranker_serve.judgments.extras import require

# [queries]
Values = NDArray[np.float64]


def per_query(grades: Grades, run: Run, cutoff: int = 10) -> dict[str, Values]:
    """nDCG (linear gain), reciprocal rank and recall at the cutoff, average precision, and which part of those ranked
    down to the cutoff was judged at all: a value for each query of `grades`, in their order, 0 where the run has none.
    As trec_eval has them: unjudged documents are irrelevant, and of equal scores the later id comes first."""
    ir = require("ir_measures")
    measures = {f"nDCG@{cutoff}": ir.nDCG @ cutoff, f"MRR@{cutoff}": ir.RR @ cutoff, f"R@{cutoff}": ir.R @ cutoff}
    measures |= {"MAP": ir.AP, f"judged@{cutoff}": ir.Judged @ cutoff}
    names = {measure: name for name, measure in measures.items()}
    rows = {query: row for row, query in enumerate(grades)}
    values = {name: np.zeros(len(rows)) for name in names.values()}
    for metric in ir.iter_calc(list(names), grades, run):
        values[names[metric.measure]][rows[metric.query_id]] = metric.value
    return values


def answerable(grades: Grades) -> list[str]:
    """Queries that have a relevant document: with others no ranking is better than another."""
    return [query for query, judged in grades.items() if any(grade > 0 for grade in judged.values())]


def first_relevant(grades: dict[str, int], scores: dict[str, float]) -> int | None:
    """The rank, from 1, of the first relevant document; None if there is none among these."""
    ranking = sorted(scores, key=lambda name: (scores[name], name), reverse=True)
    return next((rank for rank, name in enumerate(ranking, 1) if grades.get(name, 0) > 0), None)


def kendall_tau(first: Collection[float], second: Collection[float]) -> float:
    """tau-b of two scorings of the same documents: 1 the same order, -1 the reverse; NaN where one has no order."""
    signs = [np.sign(scores[:, None] - scores[None, :]) for scores in map(np.asarray, map(list, (first, second)))]
    pairs = float(np.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum()))
    return float((signs[0] * signs[1]).sum()) / pairs if pairs else float("nan")
