"""Pairs a second, in-process and with tokenizing, beside other libraries in the same run, round by round."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.contestants import Contestant
from benchmarks.contestants.ours import Ours
from benchmarks.contestants.reference import SentenceTransformers, Transformers
from benchmarks.gpu.findings import Finding, Outcome, Run
from benchmarks.machine import cores
from benchmarks.pairs import Request, pairs_of
from benchmarks.shapes import SHAPES, Shape, save
from benchmarks.workloads import Texts, Workload
from reranker_serve.families.prompts import QWEN3_RERANKER

_BEHIND_A_QUERY = Workload("query", "documents of 150 tokens", 16, 16, 64, 150)
_TINY_PAIRS = 8
_LOAD_SECONDS = 4.0


@dataclass
class Measured:
    """A shape on a device: its checkpoint, ours, and whom it is compared with.

    `half` is the precision that the checkpoint is stored in; float32 for those that are small.
    """

    run: Run
    shape: Shape
    half: str = "float32"
    rounds: int = 3
    _rounds: dict[int, list[Request]] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        folder = self.run.work / self.shape.name
        device = self.run.device if self.half != "float32" else "cpu"
        save(self.shape, folder, self.run.data, device, self.half)
        if self.run.on_gpu:
            torch.cuda.empty_cache()
        return folder

    @cached_property
    def ours(self) -> Ours:
        ours = Ours(*self._facts, device=self.run.device)
        ours.prepare()
        ours.score(self.requests(-1))
        return ours

    @property
    def _facts(self) -> tuple[Path, str, int, int]:
        return self.folder, self.shape.kind, cores(), self.shape.max_length

    def requests(self, number: int) -> list[Request]:
        """The same for everyone; the round before the first warms up."""
        if number not in self._rounds:
            self._rounds[number] = self._made(number)
        return self._rounds[number]

    def _made(self, number: int) -> list[Request]:
        if self.shape.kind == "yes_no":
            made = self.texts.round(_BEHIND_A_QUERY, number)
        else:
            made = natural_questions(self.run.data, number)
        return [Request(made[0].query, made[0].documents[:_TINY_PAIRS])] if self.run.tiny else made

    @cached_property
    def texts(self) -> Texts:
        return Texts(self.folder, self.run.data)

    def alone(self, ceiling: float, least: Callable[[dict[str, float]], bool]) -> Outcome:
        """Ours; `ok` where `least` says of the figures that they are enough."""
        seconds = [_seconds(self.ours, self.requests(number)) for number in range(self.rounds)]
        found = self._figures(seconds, ceiling)
        backend = self.ours.scorer.backend
        line = f"{found['pairs_per_second']:.0f} pairs/s, {found['tokens_per_second']:.0f} tokens/s,"
        line += f" {found['of_ceiling']:.2f} of the ceiling; {found['prefix']:.0f} + {found['own']:.0f} tokens,"
        line += f" {backend.dtype}, {backend.attention}"
        return Outcome(least(found) if self.run.on_gpu else None, line, found)

    def beside(self, name: str, rival: Contestant, least: float | None = None) -> Outcome:
        """A rival's rounds and ours in turn; `ok` where ours are `least` times as fast."""
        rival.prepare()
        rival.score(self.requests(-1))
        pairs, ratios, theirs = len(pairs_of(self.requests(0))), [], []
        for number in range(self.rounds):
            own = _seconds(self.ours, self.requests(number))
            theirs.append(_seconds(rival, self.requests(number)))
            ratios.append(theirs[-1] / own)
        ratio, speed = median(ratios), median(pairs / one for one in theirs)
        ok = None if least is None or not self.run.on_gpu else ratio >= least
        line = f"{speed:.0f} pairs/s; ours is {ratio:.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})"
        return Outcome(ok, line, {"rival": name, "pairs_per_second": speed, "ratios": ratios})

    def sentence_transformers(self, dtype: str) -> Contestant:
        return SentenceTransformers(*self._facts, device=self.run.device, dtype=self._precision(dtype))

    def transformers(self, dtype: str) -> Contestant:
        return Transformers(*self._facts, device=self.run.device, dtype=self._precision(dtype))

    def _precision(self, dtype: str) -> str:
        return dtype if self.run.on_gpu else "float32"

    def under_load(self) -> Outcome:
        """What nvidia-smi says while requests are tokenized and computed all the time."""
        if not self.run.on_gpu:
            return Outcome(None, "no GPU to ask")
        query = "--query-gpu=utilization.gpu,clocks.sm,power.draw"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "100"]
        smi = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            end = time.time() + _LOAD_SECONDS
            while time.time() < end:
                self.ours.score(self.requests(0))
        finally:
            smi.terminate()
            told, _ = smi.communicate()
        rows = [[float(value) for value in line.split(",")] for line in told.splitlines() if line.count(",") == 2]
        used, clock, power = (mean(column) for column in zip(*rows[3:], strict=True))
        values = {"utilisation": used, "clock": clock, "power": power}
        return Outcome(
            used >= 90, f"{used:.0f} % utilised, {clock:.0f} MHz, {power:.0f} W ({len(rows)} samples)", values
        )

    def _figures(self, seconds: Sequence[float], ceiling: float) -> dict[str, float]:
        requests = self.requests(0)
        pairs, (prefixes, own) = len(pairs_of(requests)), self._lengths(requests)
        work = sum(map(self.shape.operations, prefixes))
        for prefix, lengths in zip(prefixes, own, strict=True):
            work += sum(self.shape.operations_behind(prefix, length) for length in lengths)
        typical = median(seconds)
        return {
            "pairs_per_second": pairs / typical,
            "tokens_per_second": (sum(prefixes) + sum(map(sum, own))) / typical,
            "of_ceiling": work / typical / ceiling,
            "prefix": mean(prefixes),
            "own": mean(length for lengths in own for length in lengths),
        }

    def _lengths(self, requests: Sequence[Request]) -> tuple[list[int], list[list[int]]]:
        """Of each request the tokens that its pairs share, and each pair's own, as far as they are read."""
        if self.shape.kind != "yes_no":
            own = [[min(n, self.shape.max_length) for n in self.texts.pair_tokens(one)] for one in requests]
            return [0] * len(requests), own
        prompt = QWEN3_RERANKER
        before, tail = "".join(prompt.before), self.texts.tokens("".join(prompt.after))
        prefixes = [before.format(instruction=prompt.instruction, query=one.query) for one in requests]
        documents = [[prompt.document.format(document=text) for text in one.documents] for one in requests]
        own = [[self.texts.tokens(text) + tail for text in found] for found in documents]
        return [self.texts.tokens(text) for text in prefixes], own


def measured(run: Run, name: str, half: str = "float32") -> Measured:
    tiny = "tiny-yes-no" if SHAPES[name].kind == "yes_no" else "tiny"
    return Measured(run, SHAPES[tiny if run.tiny and name != "ettin-17m" else name], half, rounds=1 if run.tiny else 3)


def natural_questions(data: Path, number: int, requests: int = 16, documents: int = 64) -> list[Request]:
    """Questions of Natural Questions, each with passages of others of it."""
    source = random.Random(number)
    with gzip.open(data / "pairs" / "qed_nq.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    passages = [pair["positive"] for pair in pairs]
    return [
        Request(pair["query"], tuple(source.sample(passages, documents))) for pair in source.sample(pairs, requests)
    ]


def ceiling(run: Run, dtype: torch.dtype) -> float:
    """Operations a second of one large product, the best of twenty."""
    size = 8192 if run.on_gpu else 512
    a, b = (torch.randn(size, size, device=run.device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        _wait(run)
        start = time.perf_counter()
        a @ b
        _wait(run)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


class Ceiling:
    """Measured once a stage, and what the shares are of."""

    def __init__(self, run: Run, dtype: torch.dtype) -> None:
        self._run, self._dtype = run, dtype if run.on_gpu else torch.float32

    @cached_property
    def value(self) -> float:
        return ceiling(self._run, self._dtype)

    def finding(self) -> Finding:
        return Finding("the matrix ceiling", 20, self._tell)

    def _tell(self) -> Outcome:
        told: dict[str, Any] = {"operations_per_second": self.value}
        return Outcome(None, f"{self.value / 1e12:.4g} TFLOP/s in {self._dtype}", told)


def findings_beside(
    found: Measured, rivals: dict[str, Callable[[], Contestant]], least: float | None = None
) -> Iterator[Finding]:
    for name, build in rivals.items():
        yield Finding(
            f"{found.shape.name} beside {name}", 40, lambda name=name, build=build: found.beside(name, build(), least)
        )


def _seconds(contestant: Contestant, requests: Sequence[Request]) -> float:
    start = time.perf_counter()
    contestant.score(requests)
    return time.perf_counter() - start


def _wait(run: Run) -> None:
    if run.on_gpu:
        torch.cuda.synchronize()
