"""Comparisons from the command line, with models and servers; and what is said of scores whose truth is known."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reranker_serve.cli import main
from reranker_serve.errors import StartupError
from reranker_serve.judgments.candidates import Candidates, candidates
from reranker_serve.judgments.collection import Documents, Judgments
from reranker_serve.judgments.read import Source, read
from reranker_serve.tools.compare.analysis import Analysis, analyse
from reranker_serve.tools.compare.contestants import Contestant, Local, contestants
from reranker_serve.tools.compare.local import LocalRanker
from reranker_serve.tools.compare.report import report, verdict
from reranker_serve.tools.compare.scores import Scored, ScoreFile, candidates_digest
from reranker_serve.tools.remote import Remote
from tests.checkpoints import save_cross_encoder
from tests.conftest import fake_settings
from tests.server.processes import CLI, FAKE_SERVER, Server, metric, running

DIGEST = "0" * 64


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path, FAKE_SERVER, model_name="fake", cache_entries="0") as server:
        server.wait_ready()
        yield server


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Six queries, the last without a relevant document."""
    path = tmp_path / "judged.jsonl"
    rows = [
        {"query": f"blue whale {number}", "positive": f"whale {number}", "negative": [f"fox {number}", "blue sky"]}
        for number in range(5)
    ]
    rows.append({"query": "green", "positive": [], "negative": ["nothing", "green"]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def compare(*arguments: object) -> int:
    return main(["compare", *map(str, arguments)])


# --- from the command line ---


def test_two_ways_to_one_server_rank_alike(
    server: Server, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "result.json"
    tei = f"{server.url}#tei"
    assert compare(server.url, tei, "--data", judged, "--output", output) == 0
    printed = capsys.readouterr()
    assert f"{tei} and {server.url} rank equally well on every one of 5 queries, " in printed.out
    assert "judged: 5 queries, 15 pairs of judged documents, reranked" in printed.out
    assert "Only 5 queries: judge more of them" in printed.out
    assert "1 queries have no relevant document: left out" in printed.err
    written = json.loads(output.read_text())
    (comparison,) = written["comparisons"]
    assert (comparison["better"], comparison["tied"], comparison["tau"]) == (None, 5, pytest.approx(1))
    assert [row["about"]["dialect"] for row in written["standings"]] == ["native", "tei"]
    assert not output.with_suffix(".png").exists()
    rows = [json.loads(line) for line in output.with_suffix(".scores.jsonl").read_text().splitlines()]
    in_turn = [row["model"] for row in rows if "query" in row]
    assert in_turn[:4] == [server.url, tei, tei, server.url]


def test_models_settings_and_servers_are_compared_and_drawn(
    server: Server, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_cross_encoder("bert", tmp_path / "model")
    output = tmp_path / "result.json"
    names = [f"{folder}@float32", f"{folder}@max_length=16,use_fp16=false", server.url]
    assert compare(*names, "--data", judged, "--output", output) == 0
    written = json.loads(output.read_text())
    assert [row["label"] for row in written["standings"]] == names
    assert written["standings"][0]["about"]["precision"] == "float32"
    assert all(row["speed"]["pairs_per_second"] > 0 for row in written["standings"])
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count(f" {names[0]}") >= 2


def test_what_a_killed_comparison_scored_is_not_asked_again(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, scores = tmp_path / "result.json", tmp_path / "result.scores.jsonl"
    monkeypatch.setenv("SECONDS_PER_BATCH", "0.2")
    with running(tmp_path, FAKE_SERVER, model_name="fake", cache_entries="0") as server:
        server.wait_ready()
        asked = [server.url, f"{server.url}#tei", "--data", str(judged), "--output", str(output)]
        process = subprocess.Popen([*CLI, "compare", *asked], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not scores.exists() or scores.read_bytes().count(b'"query"') < 4:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait(30)
        assert not output.exists()
        assert compare(*asked) == 0
        # Ten rankings and perhaps the one that was being made; and for each of two servers, twice, one request to find
        # out its API and one to warm up.
        assert metric(server.url, "reranker_requests_total") <= 10 + 1 + 8
    assert scores.read_bytes().count(b'"query"') == 10
    assert json.loads(output.read_text())["comparisons"][0]["tied"] == 5


def test_a_stopped_comparison_goes_on(server: Server, judged: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    scores = tmp_path / "result.scores.jsonl"
    names = [server.url, f"{server.url}#tei"]
    assert compare(*names, "--data", judged, "--output", output) == 0
    whole, first = scores.read_text().splitlines(), json.loads(output.read_text())
    # Three lines tell of the candidates and the two servers; four rankings and half of the fifth were written.
    scores.write_text("\n".join(whole[:7]) + "\n" + whole[7][:20])
    asked = metric(server.url, "reranker_requests_total")
    assert compare(*names, "--data", judged, "--output", output) == 0
    # Six rankings; and for each server one to find out its API, one to warm up.
    assert metric(server.url, "reranker_requests_total") - asked == 6 + 4
    assert json.loads(output.read_text())["comparisons"][0]["differences"] == first["comparisons"][0]["differences"]
    assert compare(*names, "--data", judged, "--output", output) == 0
    assert metric(server.url, "reranker_requests_total") - asked == 6 + 4


def test_a_model_that_cannot_be_loaded_is_one_line(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    names = [f"{tmp_path}/empty", "demo"]
    assert compare(*names, "--data", judged, "--output", tmp_path / "result.json") == 1
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith(f"error: {tmp_path}/empty: ")


def test_a_model_that_is_killed_is_one_line(tmp_path: Path) -> None:
    settings = fake_settings(model_path=str(save_cross_encoder("bert", tmp_path / "model")))
    before = set(multiprocessing.active_children())
    ranker = LocalRanker("mine", settings)
    (process,) = set(multiprocessing.active_children()) - before
    assert len(ranker.score("a", ["b", "c"])[0]) == 2
    process.kill()
    with pytest.raises(StartupError, match=r"^mine was killed: did memory run out\?$"):
        ranker.score("a", ["b", "c"])
    ranker.close()
    assert not process.is_alive()


# --- who is compared ---


def test_names_are_folders_ids_servers_precisions_and_settings(tmp_path: Path) -> None:
    settings = fake_settings(model_path="/elsewhere", api_key="k", batch_size="4")
    names = [str(tmp_path), f"{tmp_path}@int8", "org/name@max_length=64", "org/name", "http://a", "https://b#tei:m"]
    found = [one.where for one in contestants(names, ["first", "second"], settings)]
    local = [one.settings for one in found if isinstance(one, Local)]
    assert [one.model_folder for one in local] == [tmp_path, tmp_path, None, None]
    assert [one.served_name for one in local] == [tmp_path.name, tmp_path.name, "org/name", "org/name"]
    assert [one.quantization for one in local] == ["none", "int8", "none", "none"]
    assert [one.max_length for one in local] == [512, 512, 64, 512]
    assert {(one.batch_size, one.cache_entries) for one in local} == {(4, 0)}
    assert found[4:] == [Remote("http://a", key="first"), Remote("https://b", "tei", "m", "second")]


def test_the_same_name_again_gets_a_number() -> None:
    assert [one.label for one in contestants(["a/b", "a/b", "c/d", "a/b"], [], fake_settings())] == [
        "a/b",
        "a/b (2)",
        "c/d",
        "a/b (3)",
    ]


@pytest.mark.parametrize(
    ("names", "keys", "said"),
    [
        (["./none", "a/b"], [], "./none is no folder"),
        (["a/b@int9", "a/b"], [], "'int9' is none of int8, float32, and no setting as in @max_length=256"),
        (["a/b@max_length=x", "a/b"], [], "a/b@max_length=x: max_length is not valid"),
        (["a/b", "http://h"], ["k", "l"], "1 more --key than servers"),
    ],
)
def test_names_that_make_no_sense_are_one_line(names: list[str], keys: list[str], said: str) -> None:
    with pytest.raises(StartupError, match=said) as caught:
        contestants(names, keys, fake_settings())
    assert "\n" not in str(caught.value)


def test_one_model_is_not_compared(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("demo", "--data", judged) == 1
    assert "name two models to compare, or more" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--cutoff", "--top", "--queries"])
def test_counts_are_above_zero(judged: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare("demo", "demo", "--data", judged, option, "0")
    assert "'0' is not a whole number above 0" in capsys.readouterr().err


# --- scores in a file ---


def files(folder: Path, *names: str) -> list[Contestant]:
    return [Contestant(name, Remote(f"http://{name}")) for name in names]


def test_scores_are_kept_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    one, two = files(tmp_path, "one", "two")
    with ScoreFile(path, DIGEST, [one]) as file:
        file.opened("one", {"model": "m"})
        file.add("one", "q", [1.5, -2.0], 0.25)
    with ScoreFile(path, DIGEST, [two, one]) as file:
        assert file.scored["one"] == Scored({"model": "m"}, {"q": [1.5, -2.0]}, {"q": 0.25})
        assert file.scored["two"] == Scored()
        with pytest.raises(StartupError, match="has scores of one when it was another model: remove it"):
            file.opened("one", {"model": "n"})
    with pytest.raises(StartupError, match="has scores of other queries or candidates: remove it, or choose another"):
        ScoreFile(path, "1" * 64, [one])
    with pytest.raises(StartupError, match="has scores of one with other settings or files: remove it"):
        ScoreFile(path, DIGEST, [replace(one, where=Remote("http://other"))])
    path.write_text("something else\n")
    with pytest.raises(StartupError, match="holds no scores of a comparison: choose another --output"):
        ScoreFile(path, DIGEST, [one])
    with pytest.raises(StartupError, match="cannot be opened: No such file"):
        ScoreFile(tmp_path / "none" / "scores.jsonl", DIGEST, [one])


def test_a_folder_whose_files_changed_is_another_model(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    (one,) = contestants([str(tmp_path)], [], fake_settings())
    before = one.where.identity
    os.utime(weights, (1, 1))
    assert one.where.identity != before


def test_the_digest_is_of_all_that_is_asked(judged: Path) -> None:
    judgments = read(Source(judged))
    found = candidates(judgments, 10)
    digest = candidates_digest(judgments, found)
    assert digest == candidates_digest(judgments, candidates(judgments, 10))
    texts = dict(found.texts)
    texts[next(iter(texts))] += "."
    assert candidates_digest(judgments, replace(found, texts=texts)) != digest


# --- what is said ---


def scored(rng: np.random.Generator, judgments: Judgments, signal: float, seconds: float) -> Scored:
    """Scores that tell relevant documents from others as well as `signal` says."""
    result = Scored()
    for query, judged in judgments.grades.items():
        result.scores[query] = [signal * grade + float(rng.normal()) for grade in judged.values()]
        result.seconds[query] = seconds * float(rng.uniform(0.9, 1.1))
    return result


def analysis_of(signals: dict[str, float], queries: int = 100, seed: int = 0) -> Analysis:
    rng = np.random.default_rng(seed)
    grades = {f"q{number}": {f"d{place}": int(place < 2) for place in range(20)} for number in range(queries)}
    judgments = Judgments(
        "made up", {query: f"text of {query}" for query in grades}, grades, Documents(lambda: iter(()))
    )
    found = Candidates("judged", {query: dict.fromkeys(judged, 0.0) for query, judged in grades.items()}, {}, False)
    each = {
        name: scored(rng, judgments, signal, 0.1 * (1 + place)) for place, (name, signal) in enumerate(signals.items())
    }
    return analyse(judgments, found, each, 10)


def test_one_that_is_better_is_called_so_and_the_slower_one_slower() -> None:
    analysis = analysis_of({"A": 1.0, "B": 2.0})
    (comparison,) = analysis.comparisons
    assert comparison.better == "B"
    said = verdict(comparison, analysis)
    assert said.startswith("B is better than A: +0.")
    assert "nDCG@10 (+0." in said
    assert said.endswith("2.0 times slower.")
    assert comparison.won > comparison.lost
    assert comparison.most_won[0].change >= comparison.most_won[-1].change > 0


def test_one_that_was_made_worse_is_found() -> None:
    analysis = analysis_of({"A": 2.0, "B": 1.6}, queries=300)
    assert analysis.comparisons[0].better == "A"
    assert verdict(analysis.comparisons[0], analysis).startswith("B is worse than A: -0.")


def test_the_data_cannot_tell_equals_apart() -> None:
    """Two draws of equally good scores: see `test_measures` for more of them."""
    told = 0
    for seed in range(10):
        analysis = analysis_of({"A": 1.5, "B": 1.5}, queries=50, seed=seed)
        told += analysis.comparisons[0].better is not None
    assert told <= 1
    assert verdict(analysis.comparisons[0], analysis).startswith("50 queries cannot tell whether B or A is better: ")


def test_the_report_has_tables_queries_and_the_verdict_last() -> None:
    analysis = analysis_of({"A": 1.0, "B": 3.0, "C": 1.0}, queries=60)
    lines = report(analysis).splitlines()
    assert lines[0] == "made up: 60 queries, 1200 pairs of judged, reranked"
    assert lines[2].split() == ["nDCG@10", "MRR@10", "R@10", "MAP", "judged@10", "p50", "ms", "p95", "ms", "pairs/s"]
    assert any("won most, with the rank of the first relevant document:" in line for line in lines)
    assert any("text of q" in line for line in lines)
    assert lines[-2].startswith("B is better than A")
    assert lines[-1].startswith("60 queries cannot tell whether C or A is better")
    assert analysis.comparisons[1].p >= analysis.comparisons[1].differences["nDCG@10"].p


def test_it_is_told_where_one_ranks_high_what_nobody_judged() -> None:
    grades = {f"q{number}": {f"d{place}": int(place < 2) for place in range(10)} for number in range(60)}
    judgments = Judgments("made up", {query: query for query in grades}, grades, Documents(lambda: iter(())))
    pool = {query: {f"d{place}": 0.0 for place in range(20)} for query in grades}
    judged_first = [float(20 - place) for place in range(20)]
    judged_last = [float(place) for place in range(20)]
    each = {
        "A": Scored({}, dict.fromkeys(grades, judged_first), dict.fromkeys(grades, 1.0)),
        "B": Scored({}, dict.fromkeys(grades, judged_last), dict.fromkeys(grades, 1.0)),
    }
    analysis = analyse(judgments, Candidates("a run", pool, {}, False), each, 10)
    assert analysis.standings[1].measures["judged@10"].mean == 0
    assert "What B ranks high was judged less often (-1.00 judged@10)" in report(analysis)
    assert "What B ranks high was judged less often (-1.00 judged@10)" in report(
        analyse(judgments, Candidates("a run", pool, {}, False), {"B": each["B"], "A": each["A"]}, 10)
    )
    assert "judged less often" not in report(analysis_of({"A": 1.0, "B": 3.0}))
    assert analysis.per_query["A"]["q0"] == 1.0
