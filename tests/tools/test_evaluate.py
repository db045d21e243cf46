from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from reranker_serve.cli import main
from reranker_serve.errors import StartupError
from reranker_serve.judgments.candidates import candidates
from reranker_serve.judgments.collection import Judgments
from reranker_serve.judgments.read import Source, read
from reranker_serve.tools.evaluate import add_arguments, evaluate, quality, run
from tests.conftest import fake_settings
from tests.server.processes import FAKE_SERVER, running

DOCUMENTS = {"d1": "red fox forest", "d2": "blue whale ocean", "d3": "blue sky", "d4": "whale song blue whale blue"}
QUERIES = {"q1": "blue whale", "q2": "never judged", "q3": "red fox"}
JUDGED = [("q1", "d2", 2), ("q1", "d3", 1), ("q3", "d1", 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in DOCUMENTS.items()]
    queries = [json.dumps({"_id": name, "text": text}) for name, text in QUERIES.items()]
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in JUDGED)]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("\n".join(corpus) + "\n")
    (tmp_path / "queries.jsonl").write_text("\n".join(queries) + "\n")
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def by_table(scores: dict[str, float]) -> Callable[[str, Sequence[str]], list[float]]:
    by_text = {DOCUMENTS[name]: score for name, score in scores.items()}
    return lambda _, documents: [by_text[text] for text in documents]


def read_collection(folder: Path, limit: int | None = None) -> Judgments:
    return read(Source(folder)).first(limit)


def test_only_judged_queries_are_asked_in_file_order(folder: Path) -> None:
    assert list(read_collection(folder).queries) == ["q1", "q3"]
    assert list(read_collection(folder, 1).queries) == ["q1"]


def test_the_measures_are_those_computed_by_hand(folder: Path) -> None:
    collection = read_collection(folder, 1)
    # Judged documents at ranks 2 (grade 1) and 3 (grade 2), the other two are not relevant.
    order = {"d4": 4.0, "d3": 3.0, "d2": 2.0, "d1": 1.0}
    gained = 1 / math.log2(3) + 2 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert quality(collection, {"q1": order}) == pytest.approx((gained / ideal, 1 / 2))


def test_reranking_reorders_the_candidates_of_bm25_only(folder: Path) -> None:
    collection = read_collection(folder, 1)
    assert set(candidates(collection, 2).run["q1"]) == {"d2", "d4"}
    found = candidates(collection, 4)
    best = evaluate(collection, found, by_table({"d1": 1, "d2": 9, "d3": 5, "d4": 0}), "m", "float32")
    worst = evaluate(collection, found, by_table({"d1": 1, "d2": -9, "d3": -5, "d4": 0}), "m", "float32")
    assert best.model_ndcg10 > worst.model_ndcg10
    assert best.first_ndcg10 == worst.first_ndcg10
    assert (best.queries, best.documents, best.pairs) == (1, 4, 4)


def test_over_http_it_scores_with_the_server(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = folder / "result.json"
    with running(folder, FAKE_SERVER, model_name="fake") as server:
        server.wait_ready()
        assert main(["evaluate", str(folder), "--url", server.url, "--json", str(result)]) == 0
    report = json.loads(result.read_text())
    assert (report["model"], report["queries"], report["pairs"]) == ("fake", 2, 8)
    # The fake model ranks by shared words, which puts d2 and d4 before d3, and d1 first for q3.
    assert report["model_mrr10"] == 1.0
    printed = capsys.readouterr().out
    assert "BM25" in printed
    assert "nDCG@10" in printed


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("qrels/test.tsv", None, "test.tsv cannot be read"),
        ("qrels/test.tsv", "a\tb\n1\t2\n", "test.tsv line 1: the columns must be query-id, corpus-id and score"),
        ("corpus.jsonl", None, "corpus.jsonl cannot be read"),
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{oops\n', "corpus.jsonl line 2: is not JSON"),
        ("queries.jsonl", "[]\n", "queries.jsonl line 1: is neither JSON nor an id, a tab and a text"),
        ("queries.jsonl", '{"_id": null, "text": "a"}\n', "line 1: _id and text must be strings"),
        ("queries.jsonl", '{"_id": "q9", "text": "a"}', "no judged queries"),
    ],
)
def test_a_broken_collection_is_one_line(folder: Path, file: str, content: str | None, said: str) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(StartupError, match=said) as caught:
        run(parsed(str(folder)), fake_settings())
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer_is_one_line(folder: Path) -> None:
    with pytest.raises(StartupError, match=r"http://127\.0\.0\.1:9 does not answer"):
        run(parsed(str(folder), "--url", "http://127.0.0.1:9"), fake_settings())


def test_bm25_finds_what_is_known_of_a_real_collection() -> None:
    data = os.environ.get("RR_TEST_DATA")
    if not data:
        pytest.skip("RR_TEST_DATA is not set: no judged collections")
    collection = read_collection(Path(data) / "collections" / "scifact")
    assert quality(collection, candidates(collection, 50).run)[0] == pytest.approx(0.662, abs=0.001)


def test_judgments_with_texts_of_their_own_need_no_corpus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "judged.jsonl"
    path.write_text('{"query": "blue whale", "positive": "a blue whale", "negative": ["a fox", "a blue sky"]}\n')
    result = folder / "result.json"
    with running(folder, FAKE_SERVER, model_name="fake") as server:
        server.wait_ready()
        assert main(["evaluate", str(path), "--url", server.url, "--json", str(result)]) == 0
    report = json.loads(result.read_text())
    assert (report["first"], report["first_ndcg10"], report["model_mrr10"]) == ("judged documents", None, 1.0)
    assert "3 pairs of judged documents" in capsys.readouterr().out
