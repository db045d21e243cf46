"""Parquet files scored without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reranker_serve.demo import MODEL_NAME, demo_folder
from reranker_serve.errors import StartupError
from reranker_serve.scale.data import Scores, scored
from reranker_serve.tools.score.tables import score_columns
from tests.conftest import fake_settings
from tests.tools.scoring import read, score, write

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'reranker-serve[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")

PAIRS = [
    {"id": number, "query": "blue whale", "document": None if number == 4 else f"{'blue ' * (number % 2)}{number}"}
    for number in range(700)
]
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int8()).with_metadata({"unit": "none"}),
        ("query", pa.dictionary(pa.int32(), pa.string())),
        ("document", pa.large_string()),
        ("vector", pa.list_(pa.float32(), 2)),
        ("at", pa.timestamp("ns", "UTC")),
    ],
    metadata={"made by": "a test"},
)


def table(path: Path, rows: list[dict[str, Any]], schema: Any = None) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=300)
    return path


def odd(score: float | None) -> bool:
    return score is not None and score > 0.4


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [row | {"id": row["id"] % 100, "vector": [1, 2], "at": datetime.now(UTC)} for row in PAIRS]
    return table(tmp_path / "pairs.parquet", rows, SCHEMA)


def test_columns_keep_their_types_and_a_score_comes_beside_them(pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    assert score(pairs, output) == 3
    before, after = pq.read_table(pairs), pq.read_table(output)
    assert after.drop_columns(["score", "score_error"]).equals(before, check_metadata=True)
    assert after.schema.field("score").type == pa.float32()
    assert [odd(value) for value in after["score"].to_pylist()] == [bool(number % 2) for number in range(700)]
    assert {at: why for at, why in enumerate(after["score_error"].to_pylist()) if why} == {
        4: "has no document, documents, positive or negative to score"
    }


def test_lists_get_lists_and_texts_are_left_out(tmp_path: Path) -> None:
    rows = [{"query": "blue whale", "pos": ["blue whale"], "neg": [], "id": 1}, {"query": "blue", "neg": ["a", "blue"]}]
    schema = pa.schema([("query", pa.string()), ("pos", pa.list_(pa.string())), ("neg", pa.list_(pa.string()))])
    output = tmp_path / "scores.parquet"
    assert (
        score(table(tmp_path / "pairs.parquet", rows, schema.append(pa.field("id", pa.int64()))), output, drop=True)
        == 0
    )
    after = pq.read_table(output)
    assert after.schema.names == ["id", "pos_scores", "neg_scores", "score_error"]
    assert after.schema.field("pos_scores").type == pa.list_(pa.float32())
    assert [[odd(each) for each in own or []] for own in after["neg_scores"].to_pylist()] == [[], [False, True]]
    assert [own and len(own) for own in after["pos_scores"].to_pylist()] == [1, None]


def test_from_a_table_to_lines_and_back(pairs: Path, tmp_path: Path) -> None:
    lines, back = tmp_path / "lines.jsonl.gz", tmp_path / "back.parquet"
    schema = pa.schema([("id", pa.int64()), ("query", pa.string()), ("document", pa.string())])
    assert score(table(tmp_path / "plain.parquet", PAIRS, schema), lines) == 3
    written = read(lines)
    assert [line["id"] for line in written] == list(range(700))
    assert score(lines, back, name="again") == 3
    scores = [line.get("score") for line in written]
    assert pq.read_table(back)["again"].to_pylist() == scores == pq.read_table(back)["score"].to_pylist()


def test_lines_make_a_table_of_all_their_fields(tmp_path: Path) -> None:
    """A field that only the last line has, whole numbers beside others, and lines that are none."""
    rows: list[Any] = [{"query": "blue", "document": f"blue {number}", "weight": number} for number in range(600)]
    rows += ["oops", {"query": "blue", "documents": ["blue", "fox"], "weight": 0.5, "more": {"a": [1]}}]
    output = tmp_path / "scores.parquet"
    assert score(write(tmp_path / "pairs.jsonl", rows), output) == 3
    after = pq.read_table(output).to_pylist()
    assert [odd(row["score"]) for row in after[:600]] == [True] * 600
    assert after[600]["score_error"].startswith("is not JSON")
    assert {name: value for name, value in after[601].items() if name not in ("scores", "score")} == {
        "query": "blue", "document": None, "documents": ["blue", "fox"], "weight": 0.5, "more": {"a": [1]},
        "score_error": None,
    }  # fmt: skip
    assert [odd(each) for each in after[601]["scores"]] == [True, False]


def test_lines_that_make_no_table_are_one_line_and_keep_their_scores(tmp_path: Path) -> None:
    rows = [{"query": "blue", "document": "a", "id": 1}, {"query": "blue", "document": "b", "id": "two"}]
    output = tmp_path / "scores.parquet"
    with pytest.raises(StartupError, match=r"the lines of .*pairs\.jsonl make no table \(.*\): write \.jsonl"):
        score(write(tmp_path / "pairs.jsonl", rows), output)
    output.with_name("scores.parquet.part").rename(tmp_path / "scores.jsonl.part")
    assert score(tmp_path / "pairs.jsonl", tmp_path / "scores.jsonl") == 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"note": "\ud800"}, "surrogates not allowed"),
        ({"score": 1.0}, "one has a field score already"),
    ],
)
def test_what_only_a_later_line_has_is_one_line_too(more: dict[str, Any], why: str, tmp_path: Path) -> None:
    rows = [{"query": "blue", "document": "a"}, {"query": "blue", "document": "b"} | more]
    with pytest.raises(StartupError, match=rf"make no table \(.*{why}.*\): write \.jsonl"):
        score(write(tmp_path / "pairs.jsonl", rows), tmp_path / "scores.parquet")
    (tmp_path / "scores.parquet.part").rename(tmp_path / "scores.jsonl.part")
    assert score(tmp_path / "pairs.jsonl", tmp_path / "scores.jsonl") == (3 if "score" in more else 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl", "scores.jsonl"]


def test_what_json_cannot_tell_is_one_line_and_keeps_its_scores(tmp_path: Path) -> None:
    """Nanoseconds and far years, which no time of Python has."""
    pairs = tmp_path / "pairs.parquet"
    for column in (pa.array([1], pa.timestamp("ns")), pa.array([2**60], pa.timestamp("us"))):
        pq.write_table(pa.table({"query": ["a"], "document": ["b"], "at": column}), pairs)
        with pytest.raises(StartupError, match=r"lines 1 to 1 cannot be told in JSON \(.*\): write \.parquet"):
            score(pairs, tmp_path / "scores.jsonl")
        (tmp_path / "scores.jsonl.part").rename(tmp_path / "scores.parquet.part")
        assert score(pairs, tmp_path / "scores.parquet") == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "scores.parquet"]
        (tmp_path / "scores.parquet").unlink()


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"score": 1.0}, "a column score already: choose another name with --score-name"),
        ({"score_error": "x"}, "a column score_error already: remove it"),
    ],
)
def test_a_column_that_is_there_already_is_one_line(columns: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = table(tmp_path / "pairs.parquet", [{"query": "a", "document": "b"} | columns])
    with pytest.raises(StartupError, match=f"has {why}"):
        score(path, tmp_path / "scores.parquet")


def test_what_is_no_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    path.write_text("no table")
    with pytest.raises(StartupError, match=r"pairs\.parquet cannot be read: ") as caught:
        score(path, tmp_path / "scores.parquet")
    assert "\n" not in str(caught.value)
    with pytest.raises(StartupError, match=r"none\.parquet cannot be read: "):
        score(tmp_path / "none.parquet", tmp_path / "scores.parquet")


def test_columns_of_one_name_and_texts_that_are_none_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    columns = [pa.array([text]) for text in ("a", "b", "c")]
    pq.write_table(pa.Table.from_arrays(columns, ["query", "document", "document"]), path)
    with pytest.raises(StartupError, match=r"pairs\.parquet has two columns document"):
        score(path, tmp_path / "scores.parquet")
    buffers = [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    pq.write_table(pa.table({"query": ["a"], "document": pa.Array.from_buffers(pa.string(), 1, buffers)}), path)
    with pytest.raises(StartupError, match=r"pairs\.parquet cannot be read: .*utf-8"):
        score(path, tmp_path / "scores.parquet")


async def test_a_replica_of_a_data_set_scores_every_row_whatever_the_server_leaves_out() -> None:
    settings = fake_settings(model_path=str(demo_folder()), model_name=MODEL_NAME, min_score="0.3")
    documents = [["The stock market fell.", "Photosynthesis turns sunlight into sugar."], ["A leaf makes sugar."]]
    rows = pa.table({"query": ["How do plants make food?"] * 2, "documents": documents})
    (first, second) = (await Scores(settings, {}, "score")(rows))["scores"].to_pylist()
    assert (odd(first[1]), len(first), len(second)) == (True, 2, 1)
    assert first[0] < 0.3


@pytest.mark.parametrize("name", ["min_score", "min_probability", "deadline_ms", "timeout_ms"])
def test_a_data_set_takes_no_option_that_leaves_rows_without_scores(name: str) -> None:
    with pytest.raises(StartupError, match=f"{name} is no option of a data set: every pair gets its score"):
        scored(None, fake_settings(), **{name: 1})


def test_a_data_set_with_a_column_of_scores_is_told() -> None:
    schema = pa.schema([("query", pa.string()), ("document", pa.string()), ("score", pa.float64())])
    with pytest.raises(StartupError, match="a column score already"):
        score_columns(schema, "score")


def test_it_goes_on_with_a_table(pairs: Path, tmp_path: Path) -> None:
    output, unwritable = tmp_path / "scores.parquet", tmp_path / "scores.parquet.tmp"
    unwritable.mkdir()
    with pytest.raises(StartupError, match="Is a directory"):
        score(pairs, output)
    unwritable.rmdir()
    part = tmp_path / "scores.parquet.part"
    part.write_bytes(part.read_bytes()[:-3000])
    assert score(pairs, output) == 3
    assert [odd(value) for value in pq.read_table(output)["score"].to_pylist()] == [bool(n % 2) for n in range(700)]
