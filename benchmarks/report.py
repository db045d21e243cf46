"""Measurements to medians, ratios within a round, and a page that others can check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.shapes import Shape
from benchmarks.workloads import Workload

# Whom everyone is compared with, and by whom the ratios of the other columns are made.
BASELINE = "sentence-transformers"
# The comparisons that a reader looks for: who, and with whom.
_COMPARED = (
    ("ours-http", BASELINE),
    ("ours-http", "infinity-http"),
    ("ours-http", "openvino-bf16"),
    ("ours-fp32-http", BASELINE),
    ("ours-fp32-http", "onnx"),
    ("ours-int8-http", "onnx-int8"),
    ("ours-int8-http", "openvino-int8"),
    ("ours-int8-http", "ours-http"),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One peer's pass through one round. `operations`: counted, not measured."""

    peer: str
    round: int
    pairs: int
    tokens: int
    operations: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """One peer at one workload; medians over the rounds.

    `times_baseline` are the ratios of pairs/s to the baseline's in the same round (median,
    least, most). `ceiling_share` is of the matrix ceiling of the precision it runs in.
    `difference` is the greatest to the exact float32 score, on the model's own scale.
    """

    peer: str
    facts: dict[str, str]
    pairs: int
    pairs_per_second: float
    tokens_per_second: float
    gigaflops: float
    ceiling_share: float | None
    times_baseline: tuple[float, float, float] | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """`spread` is the standard deviation of the exact scores that differences are to be seen against."""

    workload: Workload
    rounds: int
    mean_tokens: float
    spread: float
    rows: tuple[Row, ...]
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """Everything measured with one shape; `ceilings` in GFLOP/s by precision; `absent` is peer -> reason."""

    shape: Shape
    ceilings: dict[str, float]
    absent: dict[str, str]
    workloads: tuple[WorkloadResult, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A run. `command` repeats it."""

    date: str
    command: str
    revision: str
    machine: dict[str, str]
    shapes: tuple[ShapeResult, ...]


def row(
    peer: str,
    facts: dict[str, str],
    measurements: Sequence[Measurement],
    ceilings: dict[str, float],
    difference: float | None,
) -> Row:
    """A peer's row from the measurements of all peers at a workload."""
    own = [one for one in measurements if one.peer == peer]
    rate = median(one.operations / one.seconds for one in own) / 1e9
    precision = next((name for name in ceilings if facts.get("precision", "").startswith(name)), None)
    return Row(
        peer=peer,
        facts=facts,
        pairs=sum(one.pairs for one in own),
        pairs_per_second=median(one.pairs / one.seconds for one in own),
        tokens_per_second=median(one.tokens / one.seconds for one in own),
        gigaflops=rate,
        ceiling_share=rate / ceilings[precision] if precision else None,
        times_baseline=ratios(peer, BASELINE, measurements),
        difference=difference,
    )


def ratios(peer: str, other: str, measurements: Sequence[Measurement]) -> tuple[float, float, float] | None:
    """Median, least and most of how many times as many operations a second `peer` does, round by round.

    Of operations, not of pairs: a slow peer may have done only the first pairs of the round.
    """

    def by_round(name: str) -> dict[int, float]:
        return {one.round: one.operations / one.seconds for one in measurements if one.peer == name}

    own, others = by_round(peer), by_round(other)
    found = [own[number] / others[number] for number in own if number in others]
    return (median(found), min(found), max(found)) if found else None


def write(result: Result, folder: Path, name: str) -> Path:
    """`NAME.json` with everything, `NAME.md` with the tables; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    page = folder / f"{name}.md"
    page.write_text(markdown(result))
    return page


def markdown(result: Result) -> str:
    lines = [f"# Side by side, {result.date}", "", f"`{result.command}` at revision {result.revision}", ""]
    lines += [f"- {name}: {value}" for name, value in result.machine.items()]
    for shape in result.shapes:
        measured = ", ".join(f"{name} {value:.0f}" for name, value in shape.ceilings.items())
        lines += ["", f"## {shape.shape.name}", "", f"Matrix ceilings of its layers, GFLOP/s: {measured}."]
        lines += [f"Absent: {peer}: {reason}" for peer, reason in shape.absent.items()]
        lines += ["", *_comparisons(shape.workloads)]
        for workload in shape.workloads:
            lines += ["", *_workload(workload)]
    return "\n".join(lines) + "\n"


def _comparisons(results: Sequence[WorkloadResult]) -> list[str]:
    """A table of how many times faster, a column for each workload."""
    lines = [
        "Times faster, median of the rounds (least-most):",
        "",
        "| | " + " | ".join(result.workload.name for result in results) + " |",
        "|---|" + "---|" * len(results),
    ]
    for peer, other in _COMPARED:
        found = [ratios(peer, other, result.measurements) for result in results]
        if any(found):
            lines.append(f"| {peer} to {other} | " + " | ".join(map(_ratio, found)) + " |")
    return lines


def _ratio(found: tuple[float, float, float] | None) -> str:
    return "" if found is None else "{:.2f} ({:.2f}-{:.2f})".format(*found)


def _workload(result: WorkloadResult) -> list[str]:
    workload = result.workload
    return [
        f"### {workload.name}: {workload.meaning}",
        "",
        f"{result.rounds} alternating rounds, {result.mean_tokens:.0f} tokens a pair on average;"
        f" exact scores have a standard deviation of {result.spread:.3g}.",
        "",
        f"| peer | precision | pairs/s | tokens/s | GFLOP/s | of the ceiling | times {BASELINE} (least-most)"
        " | greatest score difference |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in sorted(result.rows, key=lambda row: -row.gigaflops)),
    ]


def _line(row: Row) -> str:
    share = "" if row.ceiling_share is None else f"{row.ceiling_share:.2f}"
    difference = "" if row.difference is None else f"{row.difference:.2g}"
    precision = row.facts.get("precision", "") + (f", {row.facts['tuned']}" if row.facts.get("tuned") else "")
    return (
        f"| {row.peer} | {precision} | {row.pairs_per_second:.1f} | {row.tokens_per_second:.0f}"
        f" | {row.gigaflops:.0f} | {share} | {_ratio(row.times_baseline)} | {difference} |"
    )
