"""What is said, in words, a table and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reranker_serve.errors import shortened
from reranker_serve.judgments.significance import CONFIDENCE
from reranker_serve.tools.compare.analysis import Analysis, Comparison, QueryChange, Standing

_FEW = 50
_AS_FAST = 1.05
_SHOWN_WIDTH = 90


def report(analysis: Analysis) -> str:
    """Everything, with the verdicts last, where they are read."""
    parts = [
        f"{analysis.collection}: {analysis.queries} queries, {analysis.pairs} pairs of {analysis.candidates}, reranked",
        _standings(analysis.standings),
        *("\n".join(_details(comparison)) for comparison in analysis.comparisons),
        "\n".join(line for comparison in analysis.comparisons for line in _verdicts(comparison, analysis)),
    ]
    if analysis.queries < _FEW:
        parts[-1] += f"\nOnly {analysis.queries} queries: judge more of them before you rely on this."
    return "\n\n".join(parts)


def _verdicts(comparison: Comparison, analysis: Analysis) -> Iterator[str]:
    yield verdict(comparison, analysis)
    judged = comparison.differences[analysis.judged]
    if judged.found:
        less = comparison.second if judged.mean < 0 else comparison.first
        yield (
            f"What {less} ranks high was judged less often ({-abs(judged.mean):.2f} {analysis.judged}), and what was"
            " not judged counts as irrelevant: it may be better than it looks. See --candidates judged."
        )


def verdict(comparison: Comparison, analysis: Analysis) -> str:
    """One sentence: which is better and by how much, or that the data cannot tell; and which is faster."""
    first, second = comparison.first, comparison.second
    found = comparison.differences[analysis.measure]
    change = f"{found.mean:+.3f} {analysis.measure} ({found.low:+.3f} to {found.high:+.3f})"
    if comparison.better is None:
        if comparison.won == comparison.lost == 0:
            said = f"{second} and {first} rank equally well on every one of {analysis.queries} queries"
        else:
            said = f"{analysis.queries} queries cannot tell whether {second} or {first} is better: {change}"
    else:
        said = f"{second} is {'better' if comparison.better == second else 'worse'} than {first}: {change}"
    return f"{said}, {_speed(comparison.times_slower)}."


def draw(analysis: Analysis, path: Path) -> None:
    """Quality over speed; the line joins those that none beats in both."""
    from reranker_serve.judgments.extras import require

    figure = require("matplotlib.figure").Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.subplots()
    points = sorted(
        (standing.speed.pairs_per_second, standing.measures[analysis.measure], standing.label)
        for standing in analysis.standings
        if standing.speed
    )
    for speed, quality, label in points:
        error = [[quality.mean - quality.low], [quality.high - quality.mean]]
        axes.errorbar(speed, quality.mean, yerr=error, fmt="o", capsize=3, label=label)
    best = [
        (speed, quality.mean)
        for speed, quality, _ in points
        if all(quality.mean >= other.mean for faster, other, _ in points if faster > speed)
    ]
    axes.plot(*zip(*best, strict=True), color="grey", linestyle="--", zorder=0)
    axes.set(xlabel="pairs per second, one request at a time", ylabel=analysis.measure, xscale="log")
    axes.set_title(f"{analysis.collection}, {analysis.queries} queries; bars: {CONFIDENCE:.0%} intervals")
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.legend()
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path, dpi=120)


def _standings(standings: Sequence[Standing]) -> str:
    names = list(standings[0].measures)
    header = ["", *names, "p50 ms", "p95 ms", "pairs/s"]
    rows = [header]
    for standing in standings:
        means = [standing.measures[name] for name in names]
        speed = standing.speed
        rows.append(
            [
                standing.label,
                f"{means[0].mean:.4f} ({means[0].low:.3f} to {means[0].high:.3f})",
                *(f"{mean.mean:.4f}" for mean in means[1:]),
                *((f"{speed.p50_ms:.1f}", f"{speed.p95_ms:.1f}", f"{speed.pairs_per_second:.1f}") if speed else "   "),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _details(comparison: Comparison) -> Iterator[str]:
    yield f"{comparison.second} against {comparison.first}"
    for name, found in comparison.differences.items():
        yield f"  {name:<9} {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}), p = {found.p:.4f}"
    tau = "" if comparison.tau is None else f"; Kendall's tau of the rankings {comparison.tau:.3f}"
    yield f"  queries: {comparison.won} won, {comparison.lost} lost, {comparison.tied} tied{tau}"
    for title, changes in (("won", comparison.most_won), ("lost", comparison.most_lost)):
        if changes:
            yield f"  {title} most, with the rank of the first relevant document:"
            yield from map(_query, changes)


def _query(change: QueryChange) -> str:
    ranks = f"{change.rank_before or '-'} -> {change.rank_after or '-'}"
    text = shortened(change.text, _SHOWN_WIDTH)
    return f"    {change.change:+.3f}  {ranks:>10}  {text}"


def _speed(slower: float) -> str:
    if 1 / _AS_FAST < slower < _AS_FAST:
        return "as fast"
    times, word = (slower, "slower") if slower > 1 else (1 / slower, "faster")
    return f"{times:.{1 if times < 10 else 0}f} times {word}"
