"""The check on a GPU, tried out without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu.checkpoints import all_kinds
from benchmarks.gpu.findings import Finding, Findings, Outcome, read
from benchmarks.gpu.missing import missing
from reranker_serve.families.registry import KINDS, kind_of, read_checkpoint

ROOT = Path(__file__).parents[2]
STAGES = ("machine", "served", "lost", "speed_qwen")


def fails() -> Outcome:
    raise RuntimeError("of\nno use")


def sleeps() -> Outcome:
    time.sleep(60)
    return Outcome(True, "never")


def test_what_fails_or_takes_too_long_is_written_down_and_stops_nothing(tmp_path: Path) -> None:
    good = Finding("good", 9, lambda: Outcome(True, "fine", {"value": 3}))
    findings = [Finding("bad", 9, fails), Finding("slow", 0.2, sleeps), good]
    Findings(tmp_path, "stage", time.time() + 60).run(findings)
    rows = read(tmp_path)
    assert [(row["finding"], row["ok"], row["line"]) for row in rows] == [
        ("bad", False, "RuntimeError: of no use"),
        ("slow", False, "TookTooLong: not done within 0 s"),
        ("good", True, "fine"),
    ]
    assert rows[2]["value"] == 3
    assert "in fails" in (tmp_path / "errors.txt").read_text()
    assert "ok " in (tmp_path / "findings.txt").read_text()


def test_when_the_time_is_over_nothing_is_begun(tmp_path: Path) -> None:
    Findings(tmp_path, "stage", time.time() + 1).run([Finding("late", 9, fails)])
    assert read(tmp_path)[0]["line"] == "not tried: no time was left"


def wheel(folder: Path, name: str, *requires: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            "Version: 1.0",
            *(f"Requires-Dist: {one}" for one in requires),
        ]
        file.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
    return path


def test_only_what_is_missing_is_unpacked(tmp_path: Path) -> None:
    server = wheel(tmp_path, "server", "parts", "numpy", 'fast; extra == "standard"', 'other; extra == "all"')
    parts, fast, torch = wheel(tmp_path, "parts"), wheel(tmp_path, "fast", "nowhere"), wheel(tmp_path, "torch")
    wheels = {path.name.split("-")[0]: path for path in (server, parts, fast, torch)}
    needed, absent = missing(map(Requirement, ["torch>=2", "server[standard]"]), wheels)
    assert set(needed) == {server, parts, fast}
    assert list(map(str, absent)) == ["nowhere"]


def test_every_kind_of_model_is_among_the_checkpoints(tmp_path: Path) -> None:
    kinds = set()
    for small in all_kinds():
        folder = tmp_path / small.name.replace(" ", "-") / "model"
        if small.known and small.name not in ("xlm-roberta-xl", "deberta", "albert"):  # others are of their kind
            kinds.add(kind_of(read_checkpoint(small.save(folder))).name)
    assert kinds == {kind.name for kind in KINDS}


def test_the_check_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    if not os.environ.get("RR_TEST_DATA"):
        pytest.skip("RR_TEST_DATA is not set: no real tokenizers")
    command = ["bash", "benchmarks/gpu_check.sh", "--device", "cpu", "--tiny", "--only", *STAGES]
    environ = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
    assert {row["finding"]: row["line"] for row in rows if row["ok"] is False} == {}
    assert len({row["stage"] for row in rows}) == len(STAGES)
    assert "SUMMARY" in (tmp_path / "out" / "findings.txt").read_text()
    assert (tmp_path / "out" / "trace-tiny-yes-no.txt").exists()
