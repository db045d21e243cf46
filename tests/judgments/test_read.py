"""Every format gives the same judgments, and what is wrong is named by file and line."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from reranker_serve.errors import StartupError
from reranker_serve.judgments.candidates import bm25, candidates, read_run
from reranker_serve.judgments.collection import Judgments
from reranker_serve.judgments.read import Source, read, tell_format

WHALE, SKY, FOX, SONG = "blue whale ocean", "blue sky", "red fox forest", "whale song blue whale blue"
TEXTS = {"d1": FOX, "d2": WHALE, "d3": SKY, "d4": SONG}
GRADED = [("blue whale", "d2", 2), ("blue whale", "d3", 0), ("red fox", "d1", 1)]
IDS = {"blue whale": "q1", "red fox": "q3"}


def write(path: Path, *lines: object) -> Path:
    """Lines as they are, or as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def corpus(folder: Path) -> Path:
    return write(folder / "corpus.jsonl", *({"_id": name, "title": "", "text": text} for name, text in TEXTS.items()))


def beir(folder: Path) -> Source:
    corpus(folder)
    write(folder / "queries.jsonl", *({"_id": name, "text": text} for text, name in IDS.items()))
    rows = (f"{IDS[query]}\t{document}\t{grade}" for query, document, grade in GRADED)
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", *rows)
    return Source(folder)


def trec(folder: Path) -> Source:
    topics = write(folder / "topics.tsv", *(f"{name}\t{text}" for text, name in IDS.items()))
    qrels = write(folder / "qrels.txt", *(f"{IDS[query]} 0 {document} {grade}" for query, document, grade in GRADED))
    return Source(qrels, corpus=corpus(folder), topics=topics)


def quepid(folder: Path) -> Source:
    rows = (f'"{query}",{document},{grade}' for query, document, grade in GRADED)
    return Source(write(folder / "case.csv", "query,docid,rating", *rows, "red fox,d2,"), corpus=corpus(folder))


def quepid_with_texts(folder: Path) -> Source:
    rows = (f"{query},{document},{grade},{TEXTS[document]}" for query, document, grade in GRADED)
    return Source(write(folder / "case.csv", "query,docid,rating,text", *rows))


def labels(folder: Path) -> Source:
    rows = [
        {"query": query, "document": TEXTS[document], "label": grade, "time": "2026-11-27T10:00:00Z"}
        for query, document, grade in GRADED
    ]
    return Source(write(folder / "labels.jsonl", {"query": "red fox", "document": FOX, "label": 0}, "", *rows))


def by_text(judgments: Judgments) -> dict[str, dict[str, int]]:
    """With texts instead of ids."""
    wanted = {document for judged in judgments.grades.values() for document in judged}
    texts = judgments.documents.of(wanted)
    assert texts.keys() == wanted
    return {
        judgments.queries[query]: {texts[document]: grade for document, grade in judged.items()}
        for query, judged in judgments.grades.items()
    }


@pytest.mark.parametrize("source_in", [beir, trec, quepid, quepid_with_texts, labels])
def test_every_format_gives_the_same(tmp_path: Path, source_in: Callable[[Path], Source]) -> None:
    judgments = read(source_in(tmp_path))
    assert by_text(judgments) == {"blue whale": {WHALE: 2, SKY: 0}, "red fox": {FOX: 1}}
    assert judgments.queries.keys() == judgments.grades.keys()
    assert judgments.searchable == (source_in in (beir, trec, quepid))


@pytest.mark.parametrize(
    "names", [("query", "positive", "negative"), ("query", "pos", "neg"), ("anchor", "positive", "negative")]
)
def test_pairs_are_positive_and_negative(tmp_path: Path, names: tuple[str, str, str]) -> None:
    query, positive, negative = names
    path = write(
        tmp_path / "pairs.jsonl",
        {query: "blue whale", positive: [WHALE, SONG], negative: SKY},
        {query: "blue whale", positive: SKY, negative: []},
        {query: "red fox", positive: FOX},
    )
    judgments = read(Source(path))
    assert by_text(judgments) == {"blue whale": {WHALE: 1, SONG: 1, SKY: 1}, "red fox": {FOX: 1}}


def test_a_later_label_of_the_same_pair_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", *({"query": "q", "document": "d", "label": label} for label in (True, 3, False)))
    assert by_text(read(Source(path))) == {"q": {"d": 0}}


def test_compressed_files_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    content = '\ufeff{"query": "q", "document": "d", "label": 1}\n'.encode()
    path = tmp_path / "labels.jsonl.gz"
    path.write_bytes(gzip.compress(content))
    assert by_text(read(Source(path))) == {"q": {"d": 1}}
    path.write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(StartupError, match=r"labels\.jsonl\.gz cannot be read: "):
        read(Source(path))


def test_quoted_values_may_have_line_breaks_and_be_long(tmp_path: Path) -> None:
    text = "a\n\n" + "b" * 200_000
    path = write(tmp_path / "case.csv", "Query,DocID,Rating,Text", f'q,d1,1,"{text}"', "q,d2,0,c")
    assert by_text(read(Source(path))) == {"q": {text: 1, "c": 0}}


def test_queries_without_a_text_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = beir(tmp_path)
    write(tmp_path / "queries.jsonl", {"_id": "q3", "text": "red fox"})
    with caplog.at_level(logging.WARNING):
        assert list(read(source).grades) == ["q3"]
    assert "1 judged queries have no text" in caplog.text
    assert "such as q1" in caplog.text


def test_the_digest_tells_other_judgments_whatever_their_order(tmp_path: Path) -> None:
    first, last = (
        read(Source(write(tmp_path / name, *rows)))
        for name, rows in (
            ("a", [{"query": "q", "document": document, "label": 1} for document in "ab"]),
            ("b", [{"query": "q", "document": document, "label": 1} for document in "ba"]),
        )
    )
    assert first.digest == last.digest
    changed = read(Source(write(tmp_path / "c", {"query": "q", "document": "a", "label": 1})))
    assert changed.digest != first.digest


# --- what is wrong ---


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.jsonl", '{"query": "q", "document": "d", "label": 1}\n{oops\n', "a.jsonl line 2: is not JSON"),
        ("a.jsonl", '{"query": "q", "document": "d", "label": 1}\n\n[]\n', "a.jsonl line 3: is not a JSON object"),
        ("a.jsonl", '{"query": "q", "document": "d", "label": 0.5}\n', "a.jsonl line 1: the grade 0.5 is not a whole"),
        ("a.jsonl", '{"query": "q", "document": 3, "label": 1}\n', "line 1: query and document must be strings"),
        ("a.jsonl", '{"query": "q", "positive": [3]}\n', "line 1: query must be a string, positive and negative"),
        ("a.jsonl", '{"text": "q"}\n', "a.jsonl looks like none of beir, trec, quepid, pairs, labels"),
        ("a.jsonl", "\n\n", "a.jsonl is empty"),
        ("a.csv", "query,docid,rating,text\nq,d,1,t\nq,d,x,t\n", "a.csv line 3: the grade 'x' is not a whole number"),
        ("a.csv", "query,docid,rating,text\nq,d,1\n", "a.csv line 2: has 3 columns, its header 4"),
        ("a.csv", 'query,docid,rating,text\nq,d,1,"t\n', "a.csv line 2: is not CSV"),
        ("a.csv", "docid,rating,text\nd,1,t\n", "a.csv line 1: there must be columns query, docid and rating"),
        ("a.csv", "query,docid,rating\nq,d,1\n", "no column `text`: name a file with the documents' texts by --corpus"),
        ("a.txt", "q 0 d 1\n", "a.txt has ids only: name files with the texts by --topics and --corpus"),
        ("a.txt", b"q 0 d\xff 1\n", "a.txt line 1: is not UTF-8"),
        ("a.txt", "something else\n", "a.txt looks like none of"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, file: str, content: str | bytes, said: str) -> None:
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StartupError) as caught:
        read(Source(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_line_of_qrels_and_of_texts_is_named(tmp_path: Path) -> None:
    source = trec(tmp_path)
    (tmp_path / "corpus.jsonl").write_text("d1\tred fox\nd2 no tab\n")
    with pytest.raises(StartupError, match=r"corpus\.jsonl line 2: is neither JSON nor an id, a tab and a text"):
        read(source).documents.of({"d1"})
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\nq1 0 d1\n")
    with pytest.raises(StartupError, match=r"qrels\.txt line 2: has 3 columns, not 4"):
        read(source)


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="nothing is no format of judgments: choose one of beir"):
        read(Source(tmp_path, "nothing"))
    with pytest.raises(StartupError, match=r"labels\.jsonl has the texts itself: leave out --corpus"):
        read(Source(labels(tmp_path).path, corpus=corpus(tmp_path)))
    write(beir(tmp_path).path / "qrels" / "dev.tsv", "")
    with pytest.raises(StartupError, match=r"qrels/train\.tsv does not exist: choose with --split from dev, test"):
        read(Source(tmp_path, split="train"))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"none cannot be read: No such file"):
        tell_format(tmp_path / "none")


# --- candidates ---


def test_what_is_judged_are_the_candidates_where_there_is_nothing_to_search(tmp_path: Path) -> None:
    found = candidates(read(labels(tmp_path)), 10)
    assert not found.ranked
    assert {found.texts[document] for document in found.run["blue whale"]} == {WHALE, SKY}


def test_bm25_searches_a_corpus_unless_told_otherwise(tmp_path: Path) -> None:
    judgments = read(beir(tmp_path))
    found = candidates(judgments, 2)
    assert (found.name, found.ranked, set(found.run["q1"])) == ("BM25", True, {"d2", "d4"})
    assert set(candidates(judgments, 2, "judged").run["q1"]) == {"d2", "d3"}
    with pytest.raises(StartupError, match="no run: name its file with --run"):
        candidates(judgments, 2, "run")


def test_a_run_is_read_by_score_and_only_its_best(tmp_path: Path) -> None:
    rows = ["q1 Q0 d1 1 0.5 x", "q1 Q0 d2 9 3 x", "q1 Q0 d4 2 -1e3 x", "q9 Q0 d1 1 1 x", "q3 Q0 d3 1 2 x"]
    path = write(tmp_path / "run.txt", *rows)
    assert read_run(path, ["q1", "q3"], 2) == {"q1": {"d2": 3.0, "d1": 0.5}, "q3": {"d3": 2.0}}
    assert list(read_run(path, ["q1"], 9)["q1"]) == ["d2", "d1", "d4"]
    source = Source(beir(tmp_path).path, run=path)
    assert candidates(read(source), 2).name == "run.txt"
    write(path, "q1 Q0 d1 1 best x")
    with pytest.raises(StartupError, match=r"run\.txt line 1: the score 'best' is not a number"):
        candidates(read(source), 2)


def test_candidates_without_a_text_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Source(beir(tmp_path).path, run=write(tmp_path / "run.txt", "q1 Q0 d1 1 1 x", "q1 Q0 gone 2 1 x"))
    with caplog.at_level(logging.WARNING):
        assert candidates(read(source), 9).run == {"q1": {"d1": 1.0}}
    assert "1 of the run.txt have no text, such as gone: left out" in caplog.text
    write(tmp_path / "run.txt", "q1 Q0 gone 1 1 x")
    with pytest.raises(StartupError, match=r"none of the run\.txt has a text"):
        candidates(read(source), 9)


def test_nothing_to_search_is_one_line() -> None:
    with pytest.raises(StartupError, match="no documents to search"):
        bm25({}, {"q": "a"}, 3)


# --- memory ---


@pytest.mark.parametrize("searchable", [True, False])
def test_only_what_is_judged_is_held(tmp_path: Path, searchable: bool) -> None:
    """20 MB of documents, of which two are judged; or 20 MB of labels, of which the grades stay."""
    text = "whale " * 1000
    if searchable:
        source = beir(tmp_path)
        with (tmp_path / "corpus.jsonl").open("a") as out:
            out.writelines(json.dumps({"_id": f"n{number}", "text": text}) + "\n" for number in range(3300))
    else:
        rows = ({"query": "q", "document": f"{number} {text}", "label": 0} for number in range(3300))
        source = Source(write(tmp_path / "labels.jsonl", *rows))
    tracemalloc.start()
    try:
        judgments = read(source)
        judgments.documents.of({"d1", "d2"})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
