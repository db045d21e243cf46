"""How often the sentence that answers a question comes first: read alone, or with its neighbours around it.

python -m benchmarks.spans PAIRS [--questions N]

PAIRS holds `xquad_en.jsonl.gz` (`query`, and as `positive` a paragraph) and `squad_nqg.jsonl.gz` (the same questions,
and as `positive` the sentence that answers). Where both have a question, the sentence is looked for in its paragraph,
and in that paragraph among three others. The demo model scores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reranker_serve.demo import MODEL_NAME, demo_folder
from reranker_serve.places import Place, SpanOptions
from reranker_serve.sentences import sentences
from reranker_serve.settings import Settings
from reranker_serve.tools.in_process import Ask, in_order, load_in_process, run_in_process
from reranker_serve.types import RerankRequest

_LONGEST = 512
_EVERY = SpanOptions(threshold=-1.0)


@dataclass(frozen=True, slots=True)
class Case:
    """A question, a text, and which of the text's sentences answers."""

    question: str
    text: str
    places: tuple[Place, ...]
    answer: int


def read_cases(folder: Path) -> list[Case]:
    """Questions whose sentence is exactly one of several in their paragraph."""
    answers = {_letters(question): _letters(sentence) for question, sentence in _pairs(folder / "squad_nqg.jsonl.gz")}
    cases = []
    for question, text in _pairs(folder / "xquad_en.jsonl.gz"):
        places = tuple(sentences(text, _LONGEST))
        answer = answers.get(_letters(question))
        found = [at for at, (start, stop) in enumerate(places) if _letters(text[start:stop]) == answer]
        if len(found) == 1 and len(places) > 1:
            cases.append(Case(question, text, places, found[0]))
    return cases


def among(cases: Sequence[Case], others: int, seed: int = 0) -> list[Case]:
    """The same questions, with each paragraph at some place among so many others."""
    draw = random.Random(seed)
    texts = {case.text: case.places for case in cases}
    return [_mixed(case, draw, draw.sample([text for text in texts if text != case.text], others)) for case in cases]


def _mixed(case: Case, draw: random.Random, others: list[str]) -> Case:
    others.insert(draw.randint(0, len(others)), case.text)
    text = "\n\n".join(others)
    places = tuple(sentences(text, _LONGEST))
    start = sum(len(other) + 2 for other in others[: others.index(case.text)])
    wanted = case.places[case.answer]
    return Case(case.question, text, places, places.index((start + wanted[0], start + wanted[1])))


def alone(case: Case, ask: Ask) -> bool:
    """As the server does it."""
    (ranked,) = ask(RerankRequest(case.question, (case.text,), spans=_EVERY)).ranking
    best = (ranked.spans or ())[0]
    return (best.start, best.end) == case.places[case.answer]


def lesser_of_two(case: Case, ask: Ask) -> bool:
    """By the lesser score of the two windows of two sentences that each stands in."""
    count = len(case.places)
    scores = _windows(case, ask, [(max(0, at - 1), min(count, at + 1)) for at in range(count + 1)])
    return _first(case, [min(scores[at : at + 2]) for at in range(count)])


def middle_of_three(case: Case, ask: Ask) -> bool:
    """By the score of the window with both its neighbours."""
    count = len(case.places)
    return _first(case, _windows(case, ask, [(max(0, at - 1), min(count, at + 2)) for at in range(count)]))


WAYS: dict[str, Callable[[Case, Ask], bool]] = {
    "alone": alone,
    "windows of two, the lesser": lesser_of_two,
    "windows of three, in the middle": middle_of_three,
}


def _windows(case: Case, ask: Ask, windows: Sequence[tuple[int, int]]) -> list[float]:
    texts = [case.text[case.places[first][0] : case.places[last - 1][1]] for first, last in windows]
    return in_order(ask(RerankRequest(case.question, tuple(texts), raw_scores=True)))


def _first(case: Case, scores: Sequence[float]) -> bool:
    return max(range(len(scores)), key=lambda at: scores[at]) == case.answer


def _pairs(path: Path) -> list[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [(row["query"], row["positive"]) for row in map(json.loads, lines)]


def _letters(text: str) -> str:
    """One set is lower-cased and tokenized: its letters alone are the other's."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-[lr]rb-", "", text.lower()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--questions", type=int, help="only so many")
    arguments = parser.parse_args()
    cases = read_cases(arguments.pairs)
    rounds = {"in its paragraph": cases, "among three others": among(cases, 3)}
    settings = Settings(model_name=MODEL_NAME, model_path=demo_folder())
    scorer = load_in_process(settings)

    def work(ask: Ask) -> None:
        for name, every in rounds.items():
            some = every[: arguments.questions]
            count = sum(len(case.places) for case in some) / len(some)
            print(f"{name}: {len(some)} questions, {count:.1f} sentences each, {scorer.backend.dtype}")
            for way, is_first in WAYS.items():
                print(f"  {way:<32} {sum(is_first(case, ask) for case in some) / len(some):.3f}", flush=True)

    run_in_process(scorer, settings, work)


if __name__ == "__main__":
    main()
