"""Every kind of model on random weights: in float32, float16 and bfloat16 beside float32 on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import transformers

from benchmarks.gpu.checkpoints import Small, all_kinds, in_bfloat16, texts
from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.gpu.scores import Scores, compared, facts, raw_scores, scorer_of

_SECONDS = 40.0
# The greatest difference over the greatest score, and of pairs of documents the share that must keep their order.
_TOLERANCES = {"float32": (1e-3, 0.99), "float16": (5e-2, 0.85), "bfloat16": (2e-1, 0.8)}
_TINY = ("xlm-roberta", "modernbert", "qwen3", "modular ettin", "LogitScore", "listwise", "late interaction bert")
_TINY_ALSO = ("bi-encoder mean", "bidirectional Llama", "head behind a language model", "gte new-impl")


class Case:
    """One checkpoint, and what the CPU makes of it."""

    def __init__(self, small: Small, run: Run) -> None:
        self.small, self._run = small, run
        self._folder = run.work / small.name.replace(" ", "-") / "model"
        self.query, self.documents = texts(6 if run.tiny else 24)

    @cached_property
    def folder(self) -> Path:
        return self.small.save(self._folder)

    @cached_property
    def rounded(self) -> Path:
        return in_bfloat16(self.folder)

    @cached_property
    def expected(self) -> Scores:
        return self._on_cpu(self.folder)

    @cached_property
    def expected_of_rounded(self) -> Scores:
        return self._on_cpu(self.rounded)

    def _on_cpu(self, folder: Path) -> Scores:
        return raw_scores(scorer_of(folder, "cpu", half=False), self.query, self.documents)

    def forget(self) -> None:
        shutil.rmtree(self._folder.parent, ignore_errors=True)


def findings(run: Run) -> Iterator[Finding]:
    for small in all_kinds():
        if run.tiny and small.name not in (*_TINY, *_TINY_ALSO):
            continue
        case = Case(small, run)
        for precision in _TOLERANCES:
            yield Finding(f"{small.name} in {precision}", _SECONDS, partial(_agrees, run, case, precision))
        case.forget()


def _agrees(run: Run, case: Case, precision: str) -> Outcome:
    if not case.small.known:
        return Outcome(None, f"transformers {transformers.__version__} does not have it")
    rounded = precision == "bfloat16"
    folder, expected = (case.rounded, case.expected_of_rounded) if rounded else (case.folder, case.expected)
    scorer = scorer_of(folder, run.device, half=precision != "float32")
    found = compared(raw_scores(scorer, case.query, case.documents), expected)
    known = facts(scorer)
    most, least = _TOLERANCES[known["dtype"]]
    ok = found["difference"] <= most and found["same_order"] >= least
    # On a GPU the kernel of packed attention computes in half precision only.
    packed = case.small.packed and precision != "float32"
    as_meant = not run.on_gpu or (
        known["dtype"] == precision and known["attention"].startswith("packed varlen" if packed else "padded")
    )
    line = f"differs by {found['difference']:.2g}, {found['same_order']:.1%} in order, {known['attention']}"
    return Outcome(ok and as_meant, line + ("" if as_meant else f", in {known['dtype']}"), found | known)
