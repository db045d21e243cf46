"""What the samples of a run say: numbers, a table, a curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker_serve.telemetry.usage import percentile
from reranker_serve.tools.bench.load import Sample


@dataclass(frozen=True, slots=True)
class Summary:
    """One run. Rates are of good replies, over the time from the start to the last reply.

    Latencies are of good replies and of those that never came in time, in milliseconds.
    `late_ms` is how far behind its clock the generator itself was (p99): more than a few
    milliseconds means that this machine was too busy to measure. `tokens_per_second` is None
    where the server does not tell its usage.
    """

    load: str
    requests: int
    good: int
    seconds: float
    requests_per_second: float
    pairs_per_second: float
    tokens_per_second: float | None
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    late_ms: float
    errors: dict[str, int]


def summarize(load: str, samples: Sequence[Sample]) -> Summary:
    """Raises `ValueError` if nothing was sent."""
    good = [sample for sample in samples if sample.good]
    seconds = max(sample.done for sample in samples)
    waited = sorted(sample.latency * 1e3 for sample in samples if sample.good or sample.outcome == "timeout")
    tokens = [sample.tokens for sample in good if sample.tokens is not None]
    return Summary(
        load=load,
        requests=len(samples),
        good=len(good),
        seconds=seconds,
        requests_per_second=len(good) / seconds,
        pairs_per_second=sum(sample.documents for sample in good) / seconds,
        tokens_per_second=sum(tokens) / seconds if len(tokens) == len(good) > 0 else None,
        p50_ms=percentile(waited, 50),
        p95_ms=percentile(waited, 95),
        p99_ms=percentile(waited, 99),
        max_ms=percentile(waited, 100),
        late_ms=percentile(sorted((sample.sent - sample.intended) * 1e3 for sample in samples), 99),
        errors=dict(Counter(sample.outcome for sample in samples if not sample.good)),
    )


def highest_rate_within(summaries: Sequence[tuple[float, Summary]], bound_ms: float) -> float | None:
    """The highest rate up to which every rate had p99 within the bound and no errors."""
    best = None
    for rate, summary in sorted(summaries, key=lambda pair: pair[0]):
        if not summary.p99_ms <= bound_ms or summary.errors:
            break
        best = rate
    return best


_COLUMNS = ("load", "requests", "req/s", "pairs/s", "tokens/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors")


def table(summaries: Sequence[Summary]) -> str:
    rows = [_COLUMNS, *(_row(summary) for summary in summaries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, len(_COLUMNS) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(summary: Summary) -> tuple[str, ...]:
    tokens = "" if summary.tokens_per_second is None else f"{summary.tokens_per_second:.0f}"
    latencies = (summary.p50_ms, summary.p95_ms, summary.p99_ms, summary.max_ms)
    return (
        summary.load,
        str(summary.requests),
        f"{summary.requests_per_second:.1f}",
        f"{summary.pairs_per_second:.1f}",
        tokens,
        *(f"{value:.1f}" for value in latencies),
        ", ".join(f"{count} x {outcome}" for outcome, count in summary.errors.items()) or "none",
    )


def draw_curve(summaries: Sequence[tuple[float, Summary]], title: str, path: Path) -> None:
    """Latency percentiles over the rate, as a picture in the format of the path's suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.subplots()
    rates = [rate for rate, _ in summaries]
    for label in ("p50", "p95", "p99"):
        axes.plot(rates, [getattr(summary, f"{label}_ms") for _, summary in summaries], marker="o", label=label)
    failing = [(rate, summary.p99_ms) for rate, summary in summaries if summary.errors]
    if failing:
        axes.plot(*zip(*failing, strict=True), "x", color="black", markersize=12, label="with errors")
    axes.set(xlabel="requests per second (Poisson arrivals)", ylabel="latency in ms", yscale="log", title=title)
    axes.set_xlim(left=0)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
