"""What `reranker-serve calibrate` found, in words and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker_serve.calibration import Calibration, Estimate, Threshold
from reranker_serve.judgments.calibration import ScoredPairs, Values, above, reliability
from reranker_serve.judgments.thresholds import Goal

_GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Fewer make figures that another choice of queries would change a lot.
_ENOUGH_QUERIES = 50
_ENOUGH_ABOVE = 20


@dataclass(frozen=True, slots=True)
class Report:
    """`unseen` are the probabilities of `pairs` by curves that were not fitted to their queries; these were `held_out`,
    or else cross-validated. `missed` is what no threshold gives."""

    calibration: Calibration
    brier: dict[str, float]
    pairs: ScoredPairs
    unseen: Values
    held_out: bool
    missed: tuple[tuple[Goal, float], ...]
    best_precision: float


def told(report: Report, output: Path) -> str:
    made, data = report.calibration, report.calibration.data
    brier = ", ".join(f"{name} {value:.4f}" for name, value in sorted(report.brier.items(), key=lambda row: row[1]))
    where = f"{report.pairs.queries} other queries" if report.held_out else "the same queries, cross-validated"
    rows = [
        f"{data.name}: {data.pairs} pairs of {data.queries} queries, {data.relevant} of them relevant (grade"
        f" {data.relevant_from} and above)",
        f"{made.basis.model} ({made.basis.precision})",
        f"curve: {made.curve.method} (Brier scores, less is better: {brier})",
        "",
        f"On {where}:",
        "",
        "expected calibration error",
        f"  relevance_score  {_shown(made.error_before, 3)}",
        f"  probability      {_shown(made.error, 3)}",
        "",
        f"{'min_probability':<17}{'min_score':<11}{'precision':<23}{'recall':<23}pairs above",
        *(_row(least, report) for least in _GRID),
        "",
    ]
    for threshold in made.thresholds:
        rows += [*_threshold(threshold, report), ""]
    rows += [*_missed(report), *_warnings(report)]
    ask = f'"min_probability": {made.thresholds[0].min_probability:g}' if made.thresholds else "min_probability"
    rows.append(f"Written to {output}. Serve with RERANKER_CALIBRATION={output}, and ask with {ask}.")
    return "\n".join(rows)


def draw(report: Report, path: Path) -> None:
    """Reliability before and after, and precision and recall over thresholds; in the format of the path's suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    pairs = report.pairs
    axes[0].plot([0, 1], [0, 1], color="grey", linewidth=1, label="as it should be")
    for label, values in (("relevance_score", pairs.relevance), ("probability", report.unseen)):
        axes[0].plot(*reliability(values, pairs), marker="o", label=label)
    axes[0].set(xlabel="predicted", ylabel="relevant", title="Of pairs with this prediction, so many are relevant")
    steps = [(least, above(least, report.unseen, pairs)) for least in [number / 50 for number in range(50)]]
    reached = [(least, found.precision, found.recall) for least, found in steps if found.precision]
    for label, place in (("precision", 1), ("recall", 2)):
        estimates: list[Any] = [row[place] for row in reached]
        levels = [row[0] for row in reached]
        axes[1].plot(levels, [estimate.value for estimate in estimates], label=label)
        axes[1].fill_between(levels, [each.low for each in estimates], [each.high for each in estimates], alpha=0.2)
    axes[1].set(xlabel="min_probability", title="What a threshold lets through, and 95 % intervals")
    for each in axes:
        each.set(xlim=(0, 1), ylim=(0, 1.02))
        each.grid(visible=True, alpha=0.3)
        each.legend()
    figure.suptitle(f"{report.calibration.data.name}, {report.calibration.basis.model}")
    figure.savefig(path, dpi=120)


def _row(least: float, report: Report) -> str:
    found = above(least, report.unseen, report.pairs)
    precision = _shown(found.precision) if found.precision else "-"
    return f"{least:<17.2f}{_min_score(least, report):<11}{precision:<23}{_shown(found.recall):<23}{found.pairs}"


def _min_score(least: float, report: Report) -> str:
    """The least `relevance_score` of such a probability by the curve that is served."""
    kept = report.calibration.curve.probability(report.pairs.scores) >= least
    return f"{report.pairs.relevance[kept].min():.3f}" if kept.any() else "-"


def _threshold(threshold: Threshold, report: Report) -> list[str]:
    low, high = threshold.interval
    rows = [
        f"For a {threshold.goal} of {threshold.at_least:g} ask with min_probability {threshold.min_probability:g}"
        f" ({low:.2f} to {high:.2f}), or with min_score {threshold.min_score:g}.",
        f"  where it was chosen  precision {_shown(threshold.precision)}, recall {_shown(threshold.recall)}",
    ]
    if not report.held_out:
        return rows
    found = above(threshold.min_probability, report.unseen, report.pairs)
    precision = _shown(found.precision) if found.precision else "unknown, as no pair is above"
    return [*rows, f"  on other queries     precision {precision}, recall {_shown(found.recall)}"]


def _missed(report: Report) -> list[str]:
    return [
        f"No threshold gives a {goal} of {at_least:g} on these pairs: the highest is {report.best_precision:.2f}.\n"
        for goal, at_least in report.missed
    ]


def _warnings(report: Report) -> list[str]:
    data = report.calibration.data
    said = []
    if data.queries < _ENOUGH_QUERIES:
        said.append(
            f"{data.queries} queries are few: with others the figures may be quite different, as the intervals show."
            f" Judge {_ENOUGH_QUERIES} or more."
        )
    for threshold in report.calibration.thresholds:
        if threshold.pairs < _ENOUGH_ABOVE:
            said.append(
                f"Only {threshold.pairs} pairs are above the threshold for a {threshold.goal} of"
                f" {threshold.at_least:g}: too few to rely on it."
            )
    return [*said, ""] if said else []


def _shown(estimate: Estimate, digits: int = 2) -> str:
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
