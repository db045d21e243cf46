"""On a GPU, in one run: `python -m benchmarks.gpu`. Ours in-process beside sentence-transformers and transformers.

Mixed lengths for the encoder, and a query before documents of 150 tokens for the language models. All in half
precision, all pairs of a round at once, in alternating rounds. "Of the ceiling" is the counted work over what one
product of 8,192 x 8,192 matrices reached just before; a query that is shared counts once. `--device cpu --shape tiny`
tries the tool out. Needs RR_TEST_DATA; a source tree on PYTHONPATH is enough.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.contestants import Contestant
from benchmarks.contestants.ours import Ours
from benchmarks.contestants.reference import SentenceTransformers, Transformers
from benchmarks.machine import cores, facts
from benchmarks.pairs import Request, first_pairs, pairs_of
from benchmarks.peers import revision, tell
from benchmarks.report import BASELINE
from benchmarks.shapes import SHAPES, Shape, checkpoint
from benchmarks.workloads import Texts, Workload
from reranker_serve.families.prompts import QWEN3_RERANKER

_MIXED = Workload("mixed", "16 requests of 64 documents, mixed lengths", 16, 16, 64)
_BEHIND_A_QUERY = Workload("query", "16 requests of 64 documents of 150 tokens", 16, 16, 64, 150)
_CEILING_SIZE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True, slots=True)
class Passed:
    """One contestant's pass through one round; `operations` are counted."""

    shape: str
    contestant: str
    round: int
    pairs: int
    tokens: int
    operations: float
    seconds: float


def main() -> None:
    arguments = _parser().parse_args()
    data = os.environ.get("RR_TEST_DATA")
    if not data:
        raise SystemExit("RR_TEST_DATA must name the folder with tokenizers/, pairs/ and collections/")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: --device cpu tries the tool out")
    ceiling = _ceiling(arguments.device)
    passes: list[Passed] = []
    absent: dict[str, str] = {}
    for name in arguments.shape:
        passes += _measure(SHAPES[name], Path(data), arguments, absent)
    print(_write(passes, absent, ceiling, arguments).read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure on a GPU, side by side.")
    usual = ["xlm-r-large", "qwen3-0.6b", "qwen3-4b"]
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=usual, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=1024, help="of a round (at most 1,024)")
    parser.add_argument("--device", choices=_CEILING_SIZE, default="cuda")
    parser.add_argument("--work", type=Path, default=Path(".benchmarks"), help="checkpoints")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default="gpu", help="of the result's two files (default gpu)")
    return parser


def _measure(shape: Shape, data: Path, arguments: argparse.Namespace, absent: dict[str, str]) -> list[Passed]:
    folder = checkpoint(shape, arguments.work.resolve(), data)
    texts = Texts(folder, data)
    workload = _BEHIND_A_QUERY if shape.kind == "yes_no" else _MIXED
    contestants = _contestants(shape, folder, arguments.device, absent)
    passes: list[Passed] = []
    for number in range(-1, arguments.rounds):  # the first warms up
        requests = first_pairs(texts.round(workload, number), arguments.pairs)
        prefix, lengths = _lengths(shape, texts, requests)
        for name, contestant in contestants.items():
            tell(f"{shape.name}: round {number + 1} of {arguments.rounds}, {name}")
            start = time.perf_counter()
            contestant.score(requests)
            seconds = time.perf_counter() - start
            if number >= 0:
                tokens, work = _work(shape, prefix, lengths)
                passes.append(Passed(shape.name, name, number, len(pairs_of(requests)), tokens, work, seconds))
    return passes


def _contestants(shape: Shape, folder: Path, device: str, absent: dict[str, str]) -> dict[str, Contestant]:
    half = "float32" if device == "cpu" else "float16"
    facts_of = (folder, shape.kind, cores(), shape.max_length)
    found: dict[str, Contestant] = {
        "ours": Ours(*facts_of, device=device),
        "sentence-transformers": SentenceTransformers(*facts_of, device=device, dtype=half),
        "transformers": Transformers(*facts_of, device=device, dtype=half),
    }
    for name, contestant in list(found.items()):
        tell(f"{shape.name}: loading {name}")
        try:
            contestant.prepare()
        except (RuntimeError, ImportError) as error:
            absent[f"{shape.name} {name}"] = str(error)
            del found[name]
    return found


def _lengths(shape: Shape, texts: Texts, requests: Sequence[Request]) -> tuple[list[int], list[list[int]]]:
    """Of each request, the tokens that its pairs share, and each pair's own."""
    if shape.kind != "yes_no":
        return [0] * len(requests), [texts.pair_tokens(request) for request in requests]
    prompt = QWEN3_RERANKER
    tail = texts.tokens("".join(prompt.after))
    before = "".join(prompt.before)
    prefixes = [texts.tokens(before.format(instruction=prompt.instruction, query=one.query)) for one in requests]
    own = [[texts.tokens(prompt.document.format(document=text)) + tail for text in one.documents] for one in requests]
    return prefixes, own


def _work(shape: Shape, prefixes: Sequence[int], lengths: Sequence[Sequence[int]]) -> tuple[int, float]:
    """Tokens that must be read, and operations for them."""
    tokens = sum(prefixes) + sum(map(sum, lengths))
    operations = sum(map(shape.operations, prefixes))
    for prefix, own in zip(prefixes, lengths, strict=True):
        operations += sum(shape.operations_behind(prefix, length) for length in own)
    return tokens, operations


def _ceiling(device: str) -> float:
    """Operations a second of one large product, the best of twenty."""
    size = _CEILING_SIZE[device]
    a, b = (torch.randn(size, size, device=device, dtype=torch.float16 if device == "cuda" else None) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _write(passes: Sequence[Passed], absent: dict[str, str], ceiling: float, arguments: argparse.Namespace) -> Path:
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "revision": revision(),
        "machine": facts() | {"device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"},
        "versions": {"torch": torch.__version__},
        "ceiling": ceiling,
        "absent": absent,
        "passes": [asdict(one) for one in passes],
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    page: Path = arguments.output / f"{arguments.name}.md"
    page.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [f"# On a GPU, {result['date']}", "", f"`{result['command']}` at revision {result['revision']}", ""]
    lines += [f"- {name}: {value}" for name, value in (result["machine"] | result["versions"]).items()]
    lines += [f"- one large product: {ceiling / 1e12:.4g} TFLOP/s"]
    lines += [f"- absent: {name}: {reason}" for name, reason in absent.items()]
    lines += ["", f"| shape | contestant | pairs/s | tokens/s | of the ceiling | times {BASELINE} |"]
    lines += ["|---|---|---|---|---|---|", *_rows(passes, ceiling)]
    page.write_text("\n".join(lines) + "\n")
    return page


def _rows(passes: Sequence[Passed], ceiling: float) -> list[str]:
    rows = []
    for shape, name in dict.fromkeys((one.shape, one.contestant) for one in passes):
        own = [one for one in passes if (one.shape, one.contestant) == (shape, name)]
        base = {
            one.round: one.seconds for one in passes if (one.shape, one.contestant) == (shape, "sentence-transformers")
        }
        ratio = median(base[one.round] / one.seconds for one in own) if base else None
        figures = [
            f"{median(one.pairs / one.seconds for one in own):.1f}",
            f"{median(one.tokens / one.seconds for one in own):.0f}",
            f"{median(one.operations / one.seconds for one in own) / ceiling:.2f}",
            "" if ratio is None else f"{ratio:.2f}",
        ]
        rows.append(f"| {shape} | {name} | " + " | ".join(figures) + " |")
    return rows


if __name__ == "__main__":
    main()
