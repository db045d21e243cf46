"""Files scored without a server: what is read, what is written, and what is wrong."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reranker_serve.backends.fake import FakeBackend, FakeFamily, fake_scorer
from reranker_serve.cli import main
from reranker_serve.errors import BackendLost, NotReady, StartupError
from reranker_serve.tools.score.command import add_arguments
from reranker_serve.tools.score.progress import Progress, duration
from reranker_serve.types import EncodedItem, FloatArray, ModelInfo, Scorer
from tests.tools.scoring import read, score, write

PAGE = Path(__file__).parents[2] / "docs" / "offline.md"
QUERY = "blue whale ocean"


def relevance(shared: int) -> float:
    """Of a document that shares so many words with the query."""
    return pytest.approx(1 / (1 + math.exp(1 - shared)), rel=1e-6)  # type: ignore[no-any-return]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "scores.jsonl"


# --- lines ---


@pytest.mark.parametrize(
    ("row", "scores"),
    [
        ({"query": QUERY, "document": "a blue whale"}, {"score": relevance(2)}),
        ({"query": QUERY, "document": "a blue whale", "label": 1, "id": [7]}, {"score": relevance(2)}),
        ({"query": QUERY, "documents": ["a fox", "a whale"]}, {"scores": [relevance(0), relevance(1)]}),
        ({"query": QUERY, "documents": [{"text": "whale", "id": 3}, "fox"]}, {"scores": [relevance(1), relevance(0)]}),
        ({"query": QUERY, "documents": []}, {"scores": []}),
        ({"query": QUERY, "passages": ["whale", "whale"]}, {"scores": [relevance(1), relevance(1)]}),
        (
            {"query": QUERY, "pos": ["blue whale"], "neg": ["fox", "blue"], "prompt": ""},
            {"pos_scores": [relevance(2)], "neg_scores": [relevance(0), relevance(1)]},
        ),
        (
            {"anchor": QUERY, "positive": "blue", "negative": "fox"},
            {"positive_score": relevance(1), "negative_score": relevance(0)},
        ),
        ({"query": QUERY, "document": "half a \ud83d whale"}, {"score": relevance(1)}),
    ],
)
def test_a_line_gets_the_scores_of_its_texts(
    row: dict[str, Any], scores: dict[str, Any], tmp_path: Path, output: Path
) -> None:
    assert score(write(tmp_path / "pairs.jsonl", [row]), output) == 0
    assert read(output) == [row | scores]
    assert list(output.parent.glob("*.part")) + list(output.parent.glob("*.tmp")) == []


def test_many_lines_keep_their_order_and_each_pair_is_computed_once(tmp_path: Path, output: Path) -> None:
    """Equal pairs that are on their way together are one, so that here each text is another."""
    backend = FakeBackend()
    rows = [{"query": QUERY, "document": f"{'whale ' * (number % 2)}{number}", "id": number} for number in range(2000)]
    assert score(write(tmp_path / "pairs.jsonl", rows), output, fake_scorer(backend)) == 0
    assert read(output) == [row | {"score": relevance(row["id"] % 2)} for row in rows]
    assert backend.computed == 2000


def test_blank_lines_windows_ends_and_a_mark_at_the_start_are_no_lines(tmp_path: Path, output: Path) -> None:
    row = '{"query": "blue", "document": "blue"}'
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes(f"\n{row}\r\n \n{row}".encode())
    assert score(pairs, output) == 0
    assert [line["score"] for line in read(output)] == [relevance(1)] * 2
    pairs.write_bytes(f"{row}\n".encode("utf-8-sig"))
    assert score(pairs, tmp_path / "others.jsonl") == 0


def test_compressed_files_and_an_empty_one(tmp_path: Path) -> None:
    rows = [{"query": "blue", "document": f"blue {number}"} for number in range(600)]
    lines, output = write(tmp_path / "pairs.jsonl.gz", rows), tmp_path / "scores.ndjson.gz"
    assert score(lines, output) == 0
    assert read(output) == [row | {"score": relevance(1)} for row in rows]
    assert score(write(tmp_path / "empty.jsonl", []), tmp_path / "none.jsonl") == 0
    assert (tmp_path / "none.jsonl").read_bytes() == b""


def test_texts_are_left_out_and_scores_named_otherwise(tmp_path: Path, output: Path) -> None:
    row = {"query": QUERY, "documents": ["a whale"], "neg": ["fox"], "id": 7, "score": 0.5}
    assert score(write(tmp_path / "pairs.jsonl", [row]), output, name="model", drop=True) == 0
    assert read(output) == [{"id": 7, "score": 0.5, "models": [relevance(1)], "neg_models": [relevance(0)]}]


@dataclass
class Shortest(FakeBackend):
    """The tokens of the shortest item that was read."""

    lengths: list[int] = field(default_factory=list)
    batch_token_cap: int | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        self.lengths += map(len, items)
        return super().forward(items)


def test_options_mean_what_they_mean_in_a_request(tmp_path: Path, output: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [{"query": QUERY, "document": "a b c d e blue whale"}])
    backend = Shortest()
    options = {"max_tokens_per_doc": 2, "truncation_side": "left", "max_tokens_per_query": 1, "raw_scores": True}
    assert score(pairs, output, fake_scorer(backend), **options) == 0
    assert read(output)[0]["score"] == 0  # of two words, one is the query's first
    assert backend.lengths == [4]


class ListwiseFamily(FakeFamily):
    listwise = True


def test_lines_of_one_query_are_lists_of_their_own_to_a_listwise_model(tmp_path: Path, output: Path) -> None:
    """Its equal documents are each computed, too."""
    backend = FakeBackend()
    scorer = Scorer(ModelInfo("fake", "none", "none"), ListwiseFamily(), (backend,))
    rows = [{"query": QUERY, "documents": ["whale", "whale", "fox"]}] * 2
    assert score(write(tmp_path / "pairs.jsonl", rows), output, scorer) == 0
    assert [line["scores"] for line in read(output)] == [[relevance(1), relevance(1), relevance(0)]] * 2
    assert backend.computed == 6


# --- what is wrong ---

GOOD = {"query": QUERY, "document": "a whale"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"query": ', "is not JSON: "),
        ("[1]", "is not a JSON object"),
        ('{"document": "a"}', "query must be a string, and not empty"),
        ('{"query": " ", "document": "a"}', "query must be a string, and not empty"),
        ('{"query": "a"}', "has no document, documents, positive or negative to score"),
        ('{"query": "a", "document": 3}', "document must be a text or a list of texts"),
        ('{"query": "a", "documents": ["b", null]}', "documents must be a text or a list of texts"),
        ('{"query": "a", "documents": [{"id": 3}]}', "document 0 has no text"),
        ('{"query": "a", "document": "b", "score": 1}', "has a field score already"),
        ('{"query": "a", "document": "b", "score_error": 1}', "has a field score_error already"),
        ("[" * 100_000, "is not JSON: "),
    ],
)
def test_a_wrong_line_is_told_and_costs_the_others_nothing(
    line: str, why: str, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(write(tmp_path / "pairs.jsonl", [GOOD, line, GOOD]), output) == 3
    first, wrong, last = read(output)
    assert first == last == GOOD | {"score": relevance(1)}
    assert wrong["score_error"].startswith(why)
    told = capsys.readouterr().err
    assert "lines without a score: 1; `score_error` tells why, and the first is line 2: " + why in told


def test_a_wrong_first_line_ends_it_before_anything_is_scored(tmp_path: Path, output: Path) -> None:
    with pytest.raises(StartupError, match=r"pairs\.jsonl line 2: query must be a string"):
        score(write(tmp_path / "pairs.jsonl", ["", {"question": "a"}, GOOD]), output)
    assert list(tmp_path.iterdir()) == [tmp_path / "pairs.jsonl"]


def test_what_is_no_utf8_is_a_wrong_line(tmp_path: Path, output: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes(json.dumps(GOOD).encode() + b'\n{"query": "\xff"}\n')
    assert score(pairs, output) == 3
    assert read(output)[1] == {"line": 2, "score_error": "is not UTF-8"}


class Faulty(FakeBackend):
    """Has no finite score where a text has the word `poison`, and dies of `lost`."""

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        poison, lost = (FakeFamily().encode("", [word], max_length=9, instruction=None) for word in ("poison", "lost"))
        for item in items:
            if lost.items[0].ids[-1] in item.ids:
                raise BackendLost("the device fell off the bus")
        rows = super().forward(items)
        rows[[poison.items[0].ids[-1] in item.ids for item in items]] = np.nan
        return rows


def test_what_the_model_fails_on_or_does_not_fit_is_told_for_that_line_alone(tmp_path: Path, output: Path) -> None:
    rows = [{"query": "blue", "document": f"blue {number}", "id": number} for number in range(100)]
    rows[17]["document"] = "poison"
    rows[60]["document"] = "word " * 600
    assert score(write(tmp_path / "pairs.jsonl", rows), output, fake_scorer(Faulty()), truncate="none") == 3
    lines = read(output)
    assert {line["id"]: line["score_error"].split(":")[0] for line in lines if "score_error" in line} == {
        17: "the model gave no finite score for document 0",
        60: "document 0 does not fit (at most 512 tokens a pair), and truncation is off",
    }
    assert sum("score" in line for line in lines) == 98


def test_a_lost_device_ends_it_and_the_same_command_goes_on(tmp_path: Path, output: Path) -> None:
    rows = [{"query": "blue", "document": f"blue {number}", "id": number} for number in range(2000)]
    rows[1500]["document"] = "lost"
    pairs = write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(NotReady, match="fell off the bus"):
        score(pairs, output, fake_scorer(Faulty()))
    assert not output.exists()
    backend = FakeBackend()
    assert score(pairs, output, fake_scorer(backend)) == 0
    assert [line["id"] for line in read(output)] == list(range(2000))
    assert 500 <= backend.computed < 2000


# --- from the command line ---


def test_the_command_says_what_it_did(tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [{"query": "how do plants make food", "document": "sun and sugar"}] * 3)
    assert main(["score", "--demo", "--raw-scores", str(pairs), str(output)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{output}: 3 lines, 3 scores\n"
    assert "100.0%, 3 pairs, " in printed.err
    assert len({line["score"] for line in read(output)}) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pairs.csv", "scores.jsonl"), "pairs.csv should end in .jsonl, .ndjson, .json, each also with .gz behind it"),
        (("pairs.jsonl", "scores"), "scores should end in .jsonl"),
        (("none.jsonl", "scores.jsonl"), "none.jsonl cannot be read: No such file or directory"),
        (("pairs.jsonl", "there.jsonl"), "there.jsonl is there already: remove it, or choose another name"),
        (("pairs.jsonl", "no/scores.jsonl"), "no/scores.jsonl cannot be written: there is no folder no"),
        (("pairs.jsonl", "s.jsonl", "--truncate", "x"), "--truncate x is not valid: it should be 'end', 'start' or"),
        (("pairs.jsonl", "s.jsonl", "--overlap-tokens", "-1"), "--overlap-tokens -1 is not valid: it should be great"),
        (("broken.jsonl.gz", "s.jsonl"), "broken.jsonl.gz cannot be read: "),
        (("pairs.jsonl", ""), ". should end in .jsonl"),
        (("/", "s.jsonl"), "/ should end in .jsonl"),
        (("pairs.jsonl", "s.jsonl", "--score-name", "score_error"), "--score-name score_error: that tells why there"),
        (("scored.jsonl", "s.jsonl"), "scored.jsonl line 1: has a field score already: choose another name with --sco"),
        (("failed.jsonl", "s.jsonl"), "failed.jsonl line 1: has a field score_error already: remove it"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: Sequence[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("pairs.jsonl"), [GOOD])
    write(Path("scored.jsonl"), [GOOD | {"score": 1}])
    write(Path("failed.jsonl"), [GOOD | {"score_error": "x"}])
    Path("there.jsonl").touch()
    Path("broken.jsonl.gz").write_bytes(b"\x1f\x8b\x08")
    before = sorted(os.listdir())
    assert main(["score", *arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {said}")
    assert told.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_the_examples_of_the_documentation_are_what_it_writes(tmp_path: Path, output: Path) -> None:
    asked, answered = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(asked)
    assert main(["score", "--demo", str(pairs), str(output)]) == 0
    expected = [json.loads(line) for line in answered.splitlines()]
    for line, told in zip(read(output), expected, strict=True):
        assert list(line) == list(told)
        for name, value in told.items():
            assert line[name] == (pytest.approx(value, abs=0.01) if "score" in name else value)


def test_every_option_of_the_command_is_documented() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = [flag for flag in re.findall(r"--[a-z-]+", parser.format_help()) if flag != "--help"]
    assert len(set(flags)) > 8
    assert [flag for flag in flags if f"`{flag}" not in PAGE.read_text()] == []


# --- progress ---


def test_progress_tells_the_time_left_of_what_is_left() -> None:
    progress = Progress(start=100.0, share=0.5)
    assert progress.line(0, 0.5, 100.0) == "50.0%, 0 pairs"
    assert progress.line(3000, 0.75, 110.0) == "75.0%, 3,000 pairs, 300 pairs/s, 10 s left"
    assert progress.line(15000, 1.0, 150.0) == "100.0%, 15,000 pairs, 300 pairs/s"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (59.5, "1 min"), (61, "1 min 1 s"), (7500, "2 h 5 min"), (90_000, "1 d 1 h"), (3600, "1 h")],
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told
