"""Runs the stages of a part, each in a process of its own, which ends when its time does."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.findings import Findings, Outcome, Run, read

# After its time a stage may still write down what it was at.
_GRACE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A module of findings, and the most seconds it may take."""

    name: str
    module: str
    seconds: float


# Of a part, the stages that run side by side, and then the next ones. None is longer than five minutes in all.
PARTS: dict[str, tuple[tuple[Stage, ...], ...]] = {
    "correctness": (
        (Stage("machine", "machine", 30),),
        (
            Stage("attention and faults", "faults", 150),
            Stage("over HTTP", "served", 150),
            Stage("families", "families", 240),
            Stage("lanes", "lanes", 60),
        ),
        (Stage("a lost device", "lost", 25),),
    ),
    "speed": (
        (Stage("bge-reranker-v2-m3", "speed_large", 100),),
        (Stage("Qwen3-Reranker", "speed_qwen", 120),),
        (Stage("small models", "speed_small", 75),),
    ),
}


def main() -> None:
    arguments = _parser().parse_args()
    out = (arguments.out or Path(os.environ.get("OUT") or "benchmarks/results/gpu")).resolve()
    data = Path(os.environ.get("RR_TEST_DATA") or ".gpu-carry/data").resolve()
    if arguments.stage:
        run = Run(arguments.device, arguments.tiny, data, out, arguments.work)
        module = import_module(f"benchmarks.gpu.{arguments.stage}")
        return Findings(out, arguments.name, arguments.until).run(module.findings(run))
    out.mkdir(parents=True, exist_ok=True)
    for name in ("findings.jsonl", "findings.txt", "errors.txt"):
        (out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="reranker-gpu-") as work:
        for part in [arguments.part] if arguments.part else PARTS:
            for together in PARTS[part]:
                _run([one for one in together if one.module in arguments.only], arguments, out, Path(work))
    _summarize(out)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_check.sh", description="What this server does on a GPU.")
    parser.add_argument("part", nargs="?", choices=PARTS, help="both, if left out")
    parser.add_argument("out", nargs="?", type=Path, help="folder of the findings ($OUT, else benchmarks/results/gpu)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and few of them: to try the script out")
    modules = [stage.module for part in PARTS.values() for together in part for stage in together]
    parser.add_argument("--only", nargs="+", choices=modules, default=modules, metavar="STAGE", help=", ".join(modules))
    for name, kind in (("--stage", str), ("--name", str), ("--until", float), ("--work", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    return parser


def _run(stages: Sequence[Stage], arguments: argparse.Namespace, out: Path, work: Path) -> None:
    """Side by side, each until its time is over."""
    running = [(stage, time.time() + stage.seconds) for stage in stages]
    processes = [_start(stage, until, arguments, out, work / stage.module) for stage, until in running]
    for (stage, until), process in zip(running, processes, strict=True):
        try:
            status = process.wait(max(1.0, until + _GRACE_SECONDS - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = -9
        if status:
            told = f"the stage ended with status {status} after at most {stage.seconds:.0f} s"
            Findings(out, stage.name, until).write(stage.name, Outcome(False, told), stage.seconds)
        shutil.rmtree(work / stage.module, ignore_errors=True)


def _start(stage: Stage, until: float, arguments: argparse.Namespace, out: Path, work: Path) -> subprocess.Popen[bytes]:
    work.mkdir(parents=True)
    told = ["--stage", stage.module, "--name", stage.name, "--until", str(until), "--work", str(work)]
    given = ["--device", arguments.device, *(["--tiny"] if arguments.tiny else [])]
    command = [sys.executable, "-m", "benchmarks.gpu", *told, *given]
    return subprocess.Popen(command, env=os.environ | {"OUT": str(out)})


def _summarize(out: Path) -> None:
    rows = read(out)
    failed = [row for row in rows if row["ok"] is False]
    good = sum(row["ok"] is True for row in rows)
    lines = [f"{good} ok, {len(failed)} not ok, {len(rows) - good - len(failed)} figures"]
    lines += [f"  not ok: {row['finding']}: {row['line']}" for row in failed]
    text = "\n".join(["", "SUMMARY", *lines, ""])
    with (out / "findings.txt").open("a", encoding="utf-8") as page:
        page.write(text)
    print(text, end="", flush=True)


if __name__ == "__main__":
    main()
