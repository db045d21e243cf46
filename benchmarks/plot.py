"""One workload of a side-by-side run as a picture: `python -m benchmarks.plot RESULT.json PICTURE.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_OURS, _OTHERS, _INK = "#1f6f8b", "#c3ccd2", "#2b2f33"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description="Draw a side-by-side result.")
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--shape", default="xlm-r-base")
    parser.add_argument("--workload", default="B")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    shape = next(found for found in result["shapes"] if found["shape"]["name"] == arguments.shape)
    workload = next(found for found in shape["workloads"] if found["workload"]["name"] == arguments.workload)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(result, shape, workload, arguments.picture)


def draw(result: dict[str, Any], shape: dict[str, Any], workload: dict[str, Any], picture: Path) -> None:
    """Bars of how many times the baseline's speed each peer has, with what its scores differ by."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sorted((row for row in workload["rows"] if row["times_baseline"]), key=lambda row: row["times_baseline"][0])
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.42 * len(rows)), layout="constrained")
    most = max(row["times_baseline"][2] for row in rows)
    for place, row in enumerate(rows):
        middle, least, greatest = row["times_baseline"]
        ours = row["peer"].startswith("ours")
        axes.barh(place, middle, color=_OURS if ours else _OTHERS, height=0.7)
        axes.plot([least, greatest], [place, place], color=_INK, linewidth=1)
        text = f"{row['pairs_per_second']:.1f} pairs/s, scores within {row['difference']:.2g}"
        axes.text(max(middle, greatest) + 0.01 * most, place, text, va="center", fontsize=8, color=_INK)
    axes.set_yticks(range(len(rows)), [f"{row['peer']} ({row['facts']['precision']})" for row in rows], fontsize=9)
    axes.set_xlim(0, 1.45 * most)
    axes.set_xlabel("times the speed of sentence-transformers in the same round: median, least and most", fontsize=8)
    meaning, machine = workload["workload"]["meaning"], result["machine"]
    title = f"{shape['shape']['name']}: {meaning}\n{machine['cores']} cores of {machine['processor']}, {result['date']}"
    axes.set_title(f"{title}; exact scores have a standard deviation of {workload['spread']:.2g}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
