"""Every peer side by side, in one run: `python -m benchmarks.peers`.

Rounds alternate: each round has new texts, and every peer does them before the next round,
each time in another order. `--shape`, `--workload`, `--peer`, `--rounds` and `--seconds` make
it as short as one likes. What could not take part is named in the result.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, pstdev

from benchmarks.environments import Absent
from benchmarks.machine import ceilings, facts
from benchmarks.pairs import Request, first_pairs, pairs_of
from benchmarks.report import Measurement, Result, ShapeResult, WorkloadResult, row, write
from benchmarks.runners import FastEmbed, Infinity, Llama, OurServer, Peer, Worker
from benchmarks.shapes import SHAPES, Shape, checkpoint
from benchmarks.workloads import WORKLOADS, Texts, Workload

MakePeer = Callable[[str, Shape, Path, Path], Peer]


def _worker(environment: str | None = None) -> MakePeer:
    return lambda name, shape, folder, work: Worker(name, shape, folder, work, environment)


def _ours(quantization: str | None = None, half: bool = True) -> MakePeer:
    return lambda name, shape, folder, work: OurServer(name, shape, folder, work, quantization, half)


PEERS: dict[str, MakePeer] = {
    "ours-http": _ours(),
    "ours-fp32-http": _ours(half=False),
    "ours": _worker(),
    "ours-int8-http": _ours("int8"),
    "ours-int8": _worker(),
    "sentence-transformers": _worker(),
    "transformers": _worker(),
    "infinity-http": Infinity,
    "onnx": _worker("runtimes"),
    "onnx-int8": _worker("runtimes"),
    "openvino-bf16": _worker("runtimes"),
    "openvino-int8": _worker("runtimes"),
    "fastembed": lambda name, shape, folder, work: FastEmbed(name, shape, folder, work, "fastembed"),
    "candding": _worker("candding"),
    "llama-http": Llama,
}
# Files are measured by themselves.
FILES: dict[str, MakePeer] = {name: _worker() for name in ("ours-file", "ours-fp32-file", "sentence-transformers-bf16")}
_WARM_UP_PAIRS = 8
_TUNING_PAIRS = 32


def main() -> None:
    arguments = _parser().parse_args()
    data = os.environ.get("RR_TEST_DATA")
    if not data:
        raise SystemExit("RR_TEST_DATA must name the folder with tokenizers/, pairs/ and collections/")
    shapes = [_measure_shape(SHAPES[name], Path(data), arguments) for name in arguments.shape]
    result = Result(
        date=datetime.now(UTC).date().isoformat(),
        command=shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
        revision=revision(),
        machine=facts(),
        shapes=tuple(shapes),
    )
    page = write(result, arguments.output, arguments.name)
    print(page.read_text())
    print(f"written to {page} and {page.with_suffix('.json')}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Measure every peer side by side.")
    usual = ["xlm-r-base", "xlm-r-large", "demo", "qwen3-0.6b"]
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=usual, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=[*"ABCDE"], metavar="LETTER")
    names = [*PEERS, *FILES]
    parser.add_argument("--peer", nargs="+", choices=names, default=list(PEERS), metavar="PEER", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=60, help="a peer too slow for a round does as much of it as fits (default 60)"
    )
    parser.add_argument("--reference-pairs", type=int, default=48, help="pairs that score differences are taken of")
    parser.add_argument("--work", type=Path, default=Path(".benchmarks"), help="environments, checkpoints and logs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default="cpu", help="of the result's two files (default cpu)")
    return parser


def _measure_shape(shape: Shape, data: Path, arguments: argparse.Namespace) -> ShapeResult:
    work = arguments.work.resolve()
    folder = checkpoint(shape, work, data)
    texts = Texts(folder, data)
    tell(f"{shape.name}: measuring the matrix ceilings")
    limits = ceilings(shape)
    present: dict[str, Peer] = {}
    about: dict[str, dict[str, str]] = {}
    absent: dict[str, str] = {}
    exact = Worker("exact", shape, folder, work, None)
    try:
        exact.prepare()
        for name in arguments.peer:
            tell(f"{shape.name}: preparing {name}")
            peer = {**PEERS, **FILES}[name](name, shape, folder, work)
            try:
                present[name] = peer
                about[name] = peer.prepare()
            except Absent as reason:
                _drop(name, present, str(reason), absent)
        workloads = [
            Series(shape, WORKLOADS[name], texts, limits, arguments).run(present, about, exact, absent)
            for name in arguments.workload
        ]
    finally:
        for peer in (exact, *present.values()):
            peer.close()
    return ShapeResult(shape, limits, absent, tuple(workloads))


def _drop(name: str, present: dict[str, Peer], reason: str, absent: dict[str, str]) -> None:
    absent[name] = reason
    tell(f"{name} is absent: {reason}")
    present.pop(name).close()


class Series:
    """One shape at one workload: rounds, and what came of them."""

    def __init__(
        self,
        shape: Shape,
        workload: Workload,
        texts: Texts,
        limits: dict[str, float],
        arguments: argparse.Namespace,
    ) -> None:
        self._shape, self._workload, self._texts, self._limits = shape, workload, texts, limits
        self._rounds: int = arguments.rounds
        self._seconds: float = arguments.seconds
        self._reference_pairs: int = arguments.reference_pairs
        self._measurements: list[Measurement] = []
        # peer -> the scores of the first round's first pairs
        self._first: dict[str, list[float]] = {}
        self._tuned: dict[str, str] = {}
        self._allowed: dict[str, int] = {}

    def run(
        self, present: dict[str, Peer], about: dict[str, dict[str, str]], exact: Peer, absent: dict[str, str]
    ) -> WorkloadResult:
        """Peers that fail are dropped from `present`, with the reason in `absent`."""
        warm = self._texts.round(self._workload, -1)
        first = self._texts.round(self._workload, 0)
        for name in list(present):
            self._guard(name, present, absent, lambda peer, name=name: self._get_ready(name, peer, warm))  # type: ignore[misc]
        for number in range(self._rounds):
            requests = self._texts.round(self._workload, number)
            names = list(present)
            turn = number % max(1, len(names))
            for name in [*names[turn:], *names[:turn]]:
                tell(f"{self._shape.name} {self._workload.name}: round {number + 1} of {self._rounds}, {name}")
                self._guard(
                    name,
                    present,
                    absent,
                    lambda peer, name=name, number=number, requests=requests: self._pass(name, peer, number, requests),  # type: ignore[misc]
                )
        checked = first_pairs(first, self._reference_pairs)
        expected = _flat(exact.score(checked, 1).scores)
        lengths = [tokens for request in first for tokens in self._texts.pair_tokens(request)]
        measured = dict.fromkeys(one.peer for one in self._measurements)
        return WorkloadResult(
            workload=self._workload,
            rounds=self._rounds,
            mean_tokens=mean(lengths),
            spread=pstdev(expected),
            rows=tuple(
                row(
                    name,
                    about[name] | {"tuned": self._tuned.get(name, "")},
                    self._measurements,
                    self._limits,
                    _greatest_difference(self._first.get(name, []), expected),
                )
                for name in measured
            ),
            measurements=tuple(self._measurements),
        )

    def _guard(self, name: str, present: dict[str, Peer], absent: dict[str, str], work: Callable[[Peer], None]) -> None:
        if name in present:
            try:
                work(present[name])
            except Absent as reason:
                _drop(name, present, f"at workload {self._workload.name}: {reason}", absent)

    def _get_ready(self, name: str, peer: Peer, requests: Sequence[Request]) -> None:
        """Warm up, let it choose its batch size, and see how much of a round fits the time."""
        tell(f"{self._shape.name} {self._workload.name}: warming up {name}")
        self._tuned[name] = peer.tune(first_pairs(requests, _TUNING_PAIRS))
        few = first_pairs(requests, _WARM_UP_PAIRS)
        peer.score(few, self._workload.callers)
        speed = len(pairs_of(few)) / peer.score(few, self._workload.callers).seconds
        least = max(self._reference_pairs, 2 * self._workload.callers)
        self._allowed[name] = max(least, int(speed * self._seconds))

    def _pass(self, name: str, peer: Peer, number: int, requests: Sequence[Request]) -> None:
        done = first_pairs(requests, self._allowed[name])
        lengths = [tokens for request in done for tokens in self._texts.pair_tokens(request)]
        time.sleep(0.3)  # until the threads of the peer before have stopped spinning
        scored = peer.score(done, self._workload.callers)
        operations = sum(self._shape.operations(tokens) for tokens in lengths)
        self._measurements.append(Measurement(name, number, len(lengths), sum(lengths), operations, scored.seconds))
        if number == 0:
            self._first[name] = _flat(scored.scores)[: self._reference_pairs]


def _flat(scores: Sequence[Sequence[float]]) -> list[float]:
    return [score for one in scores for score in one]


def _greatest_difference(got: Sequence[float], expected: Sequence[float]) -> float | None:
    """Over the pairs that both have."""
    return max((abs(a - b) for a, b in zip(got, expected, strict=False)), default=None)


def revision() -> str:
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
