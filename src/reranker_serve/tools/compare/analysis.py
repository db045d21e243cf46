"""From scores and judgments to what can be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reranker_serve.judgments.candidates import Candidates
from reranker_serve.judgments.collection import Judgments, Run
from reranker_serve.judgments.measures import Values, first_relevant, kendall_tau, per_query
from reranker_serve.judgments.significance import Difference, difference, holm, interval
from reranker_serve.tools.compare.scores import Scored

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Mean:
    """Over queries, with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Of answers to one request at a time, each a query with all its candidates."""

    p50_ms: float
    p95_ms: float
    pairs_per_second: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How one did; the first stage has no speed."""

    label: str
    about: Mapping[str, Any]
    measures: Mapping[str, Mean]
    speed: Speed | None


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query won or lost, and the ranks of its first relevant document; None where it is not among the candidates."""

    query: str
    text: str
    change: float
    rank_before: int | None
    rank_after: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second against the first. `p` is that of the main measure's difference, corrected for the number of
    comparisons; `times_slower` the median of the queries' ratios of seconds; `tau` how alike the rankings are.
    `better` is None where the data cannot tell."""

    first: str
    second: str
    differences: Mapping[str, Difference]
    p: float
    won: int
    lost: int
    tied: int
    most_won: tuple[QueryChange, ...]
    most_lost: tuple[QueryChange, ...]
    times_slower: float
    tau: float | None
    better: str | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """`measure` is the main one, `judged` the part of the best documents that was judged; every later contestant is
    compared with the first. `per_query`: label -> query id -> the main measure."""

    collection: str
    candidates: str
    queries: int
    pairs: int
    measure: str
    judged: str
    standings: tuple[Standing, ...]
    comparisons: tuple[Comparison, ...]
    per_query: Mapping[str, Mapping[str, float]]


def analyse(judgments: Judgments, found: Candidates, scored: Mapping[str, Scored], cutoff: int) -> Analysis:
    """`scored` has every query of the candidates for every contestant, the one to compare with first."""
    runs = {label: _run(found, one) for label, one in scored.items()}
    values = {label: per_query(judgments.grades, run, cutoff) for label, run in runs.items()}
    standings = [Standing(label, one.about, _means(values[label]), _speed(found, one)) for label, one in scored.items()]
    if found.ranked:
        standings.insert(0, Standing(found.name, {}, _means(per_query(judgments.grades, found.run, cutoff)), None))
    first, *others = scored
    measure, *_, judged = values[first]
    differences = {
        label: {name: difference(values[first][name], values[label][name]) for name in values[first]}
        for label in others
    }
    corrected = holm([differences[label][measure].p for label in others])
    comparisons = [
        Comparison(
            first,
            label,
            differences[label],
            p,
            *_changes(judgments, runs[first], runs[label], values[label][measure] - values[first][measure]),
            times_slower=_ratio(scored[first], scored[label]),
            tau=_alike(runs[first], runs[label]),
            better=_better(first, label, replace(differences[label][measure], p=p)),
        )
        for label, p in zip(others, corrected, strict=True)
    ]
    pairs = sum(len(ranking) for ranking in found.run.values())
    return Analysis(
        collection=judgments.name,
        candidates=found.name,
        queries=len(judgments.queries),
        pairs=pairs,
        measure=measure,
        judged=judged,
        standings=tuple(standings),
        comparisons=tuple(comparisons),
        per_query={
            label: dict(zip(judgments.queries, each[measure].tolist(), strict=True)) for label, each in values.items()
        },
    )


def _better(first: str, second: str, corrected: Difference) -> str | None:
    if not corrected.found:
        return None
    return second if corrected.mean > 0 else first


def _run(found: Candidates, scored: Scored) -> Run:
    return {query: dict(zip(ranking, scored.scores[query], strict=True)) for query, ranking in found.run.items()}


def _means(values: Mapping[str, Values]) -> dict[str, Mean]:
    return {name: Mean(float(each.mean()), *interval(each)) for name, each in values.items()}


def _speed(found: Candidates, scored: Scored) -> Speed:
    seconds = np.array([scored.seconds[query] for query in found.run])
    pairs = sum(len(ranking) for ranking in found.run.values())
    p50, p95 = np.quantile(seconds, (0.5, 0.95)) * 1000
    return Speed(float(p50), float(p95), float(pairs / seconds.sum()))


def _ratio(first: Scored, second: Scored) -> float:
    return float(np.median([second.seconds[query] / first.seconds[query] for query in first.seconds]))


def _alike(first: Run, second: Run) -> float | None:
    """Kendall's tau, the mean of all queries that have one."""
    taus = np.array([kendall_tau(first[query].values(), second[query].values()) for query in first])
    return None if np.isnan(taus).all() else float(np.nanmean(taus))


def _changes(
    judgments: Judgments, first: Run, second: Run, change: Values
) -> tuple[int, int, int, tuple[QueryChange, ...], tuple[QueryChange, ...]]:
    """How many queries were won, lost and tied; those won most and those lost most."""
    queries = list(judgments.queries)

    def told(row: int) -> QueryChange:
        query = queries[row]
        ranks = (first_relevant(judgments.grades[query], run.get(query, {})) for run in (first, second))
        return QueryChange(query, judgments.queries[query], float(change[row]), *ranks)

    order = [int(row) for row in np.argsort(change, kind="stable")]
    won, lost = [row for row in reversed(order) if change[row] > 0], [row for row in order if change[row] < 0]
    tied = len(queries) - len(won) - len(lost)
    return len(won), len(lost), tied, tuple(map(told, won[:_SHOWN])), tuple(map(told, lost[:_SHOWN]))
