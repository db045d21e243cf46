"""Findings, each written the moment it is known: a run that is cut has told what it saw."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

_LINE = 300
# With less time than that nothing is begun.
_LEAST_SECONDS = 3.0
_MARKS = {True: "ok", False: "NOT OK", None: "figure"}


@dataclass(frozen=True, slots=True)
class Run:
    """What every finding is told. `work` is a folder for checkpoints."""

    device: str
    tiny: bool
    data: Path
    out: Path
    work: Path

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`ok` is None for a figure that nothing is asked of; `line` is for people, `values` for programs."""

    ok: bool | None
    line: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to find out within so many seconds."""

    name: str
    seconds: float
    work: Callable[[], Outcome]


class TookTooLong(Exception):
    """A finding's time is over."""


class Findings:
    """Writes what is found to `out`, until `deadline` in time of `time.time`. Several processes may write."""

    def __init__(self, out: Path, stage: str, deadline: float) -> None:
        self._out, self._stage, self._deadline = out, stage, deadline
        out.mkdir(parents=True, exist_ok=True)

    def run(self, findings: Iterable[Finding]) -> None:
        """One after the other; what fails stops none of the others."""
        try:
            for finding in findings:
                self._find(finding)
        except Exception as error:  # what the findings share could not be set up
            self._fail(self._stage, error, 0.0)

    def _find(self, finding: Finding) -> None:
        start = time.time()
        left = self._deadline - start
        if left < _LEAST_SECONDS:
            return self.write(finding.name, Outcome(False, "not tried: no time was left"), 0.0)
        try:
            with _within(min(finding.seconds, left)):
                outcome = finding.work()
        except Exception as error:  # whatever it is, it is a finding
            return self._fail(finding.name, error, time.time() - start)
        return self.write(finding.name, outcome, time.time() - start)

    def _fail(self, name: str, error: Exception, seconds: float) -> None:
        told = " ".join(str(error).split())
        text = "".join(traceback.format_exception(error))
        _append(self._out / "errors.txt", f"=== {self._stage}: {name}\n{text}\n")
        self.write(name, Outcome(False, f"{type(error).__name__}: {told}"[:_LINE]), seconds)

    def write(self, name: str, outcome: Outcome, seconds: float) -> None:
        row = {"stage": self._stage, "finding": name, "ok": outcome.ok, "line": outcome.line, "seconds": seconds}
        _append(self._out / "findings.jsonl", json.dumps(row | outcome.values, default=str) + "\n")
        line = f"{_MARKS[outcome.ok]:<7} {seconds:6.1f} s  {name}: {outcome.line}\n"
        _append(self._out / "findings.txt", line)
        print(line, end="", flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    path = out / "findings.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raises `TookTooLong` then; what hangs outside Python is ended by whoever started this process."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
