"""`reranker-serve verify`: does the loaded model give the scores that were published for it?

`published_scores.jsonl` holds the pairs, each with its source, its scale and how far a correct
float32 computation may be from the printed figure (which was often made in half precision).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reranker_serve.errors import StartupError
from reranker_serve.model_names import folder_name
from reranker_serve.settings import Settings
from reranker_serve.tools.in_process import Ask, in_order, load_in_process, run_in_process
from reranker_serve.types import RerankRequest

_PAIRS = Path(__file__).with_name("published_scores.jsonl")
# Half precision moves a logit of 10 by up to about 0.1; another model's weights move it by whole units.
_HALF_PRECISION = {"raw": 0.15, "relevance": 0.03}
_SHOWN = 44


@dataclass(frozen=True, slots=True)
class PublishedPair:
    """One published figure: the `raw` score or the `relevance` of a pair."""

    model: str
    query: str
    document: str
    scale: Literal["raw", "relevance"]
    score: float
    tolerance: float
    source: str


@dataclass(frozen=True, slots=True)
class Check:
    """A pair with the score it got, and how far that may be off."""

    pair: PublishedPair
    got: float
    allowed: float

    @property
    def passed(self) -> bool:
        return abs(self.got - self.pair.score) <= self.allowed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--published-as", metavar="MODEL", help="whose scores to expect, if the name does not tell")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print a row a pair and a verdict; 0 if all agree, 1 if not. Raises `StartupError` if no pairs are known."""
    pairs = pairs_of(arguments.published_as or settings.served_name)
    scorer = load_in_process(settings)
    checks = run_in_process(scorer, settings, lambda ask: verify(pairs, scorer.backend.dtype, ask))
    print(report(checks, f"{scorer.info.name} ({scorer.backend.dtype} on {scorer.backend.device})"))
    return 0 if all(check.passed for check in checks) else 1


def read_pairs() -> list[PublishedPair]:
    return [PublishedPair(**json.loads(line)) for line in _PAIRS.read_text(encoding="utf-8").splitlines()]


def pairs_of(model: str) -> list[PublishedPair]:
    """The pairs published for a model, by its hub id or the folder that `download` gives it."""
    known = read_pairs()
    pairs = [pair for pair in known if model in (pair.model, folder_name(pair.model))]
    if not pairs:
        names = ", ".join(dict.fromkeys(pair.model for pair in known))
        raise StartupError(f"no published scores of {model} are known; with --published-as choose one of {names}")
    return pairs


def verify(pairs: Sequence[PublishedPair], dtype: str, ask: Ask) -> list[Check]:
    """Score each pair alone, and compare."""
    checks = []
    for pair in pairs:
        request = RerankRequest(pair.query, (pair.document,), raw_scores=pair.scale == "raw")
        allowed = pair.tolerance if dtype == "float32" else max(pair.tolerance, _HALF_PRECISION[pair.scale])
        checks.append(Check(pair, in_order(ask(request))[0], allowed))
    return checks


def report(checks: Sequence[Check], model: str) -> str:
    rows = [f"{model}", f"{'document':<{_SHOWN}}  {'scale':<9} published       got  difference  allowed"]
    for check in checks:
        pair, verdict = check.pair, "ok" if check.passed else "WRONG"
        shown = pair.document if len(pair.document) <= _SHOWN else pair.document[: _SHOWN - 1] + "…"
        rows.append(
            f"{shown:<{_SHOWN}}  {pair.scale:<9} {pair.score:9.4f} {check.got:9.4f}  {check.got - pair.score:+10.5f}"
            f"  {check.allowed:7g}  {verdict}"
        )
    wrong = sum(not check.passed for check in checks)
    if wrong:
        rows.append(
            f"FAILED: {wrong} of {len(checks)} scores are not the published ones. Do not use this model as it is:"
            " its weights, tokenizer or prompt are not those the scores were published for."
        )
    else:
        rows.append(f"all {len(checks)} scores are the published ones")
    return "\n".join(rows)
