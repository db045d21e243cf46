"""Arrow tables and Parquet files, whose columns keep their types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from reranker_serve.errors import StartupError, reason
from reranker_serve.judgments.extras import require
from reranker_serve.tools.score.lines import Batch, Source, unreadable
from reranker_serve.tools.score.rows import (
    PROBLEM,
    QUERIES,
    TEXT_FIELDS,
    Outcome,
    Row,
    row_of,
    score_name,
    scored,
    what_to_do,
)

_BATCH = 256
# What is written at once is read at once by others: a row group.
_GROUP_BYTES = 64 * 1024 * 1024
_KEPT = "the scores are kept if you rename the .part file alike"


@dataclass(frozen=True, slots=True)
class TableBatch:
    rows: list[Row]
    table: Any
    share: float

    def objects(self) -> list[Any]:
        """Raises `StartupError` where Python has no such values: nanoseconds, years beyond 9999, text that is none."""
        try:
            values: list[Any] = self.table.to_pylist()
        except (ValueError, OverflowError) as error:
            raise StartupError(
                f"lines {self.rows[0].number} to {self.rows[-1].number} cannot be told in JSON ({reason(error)}):"
                f" write .parquet; {_KEPT}"
            ) from None
        return values


@dataclass(frozen=True, slots=True)
class TableSource:
    """A Parquet file. `score` is the name of the column that is to come."""

    path: Path
    score: str
    schema: Any

    @classmethod
    def open(cls, path: Path, score: str) -> TableSource:
        """Raises `StartupError` where it is none, or has a column of that name."""
        with _reading(path):
            schema = _parquet().read_schema(path)
        twice = next((name for name, count in Counter(schema.names).items() if count > 1), None)
        if twice is not None:
            raise StartupError(f"{path} has two columns {twice}: rename one, or remove it")
        score_columns(schema, score, of=str(path))
        return cls(path, score, schema)

    def batches(self, texts_only: bool = False) -> Iterator[TableBatch]:
        columns = [name for name in self.schema.names if name in TEXT_FIELDS] if texts_only else None
        with _reading(self.path), _parquet().ParquetFile(self.path) as file:
            total, read = max(1, file.metadata.num_rows), 0
            for table in file.iter_batches(_BATCH, columns=columns):
                rows = rows_of(table, self.score, read + 1)
                read += len(rows)
                yield TableBatch(rows, table, read / total)


def rows_of(table: Any, score: str, start: int = 1) -> list[Row]:
    """Of an Arrow table or record batch; the first row has number `start`."""
    texts = table.select([name for name in table.schema.names if name in TEXT_FIELDS])
    return [row_of(number, value, score) for number, value in enumerate(texts.to_pylist(), start)]


def score_columns(schema: Any, score: str, of: str = "the table") -> dict[str, Any]:
    """Name and type of the columns that a table of this schema gets. Raises `StartupError` if it has one of them."""
    pa = arrow()
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    columns = {}
    for name in schema.names:
        if name in TEXT_FIELDS and name not in QUERIES:
            listed = any(is_list(schema.field(name).type) for is_list in lists)
            columns[score_name(name, score, listed)] = _score_type(listed)
    columns[PROBLEM] = pa.string()
    taken = next((name for name in columns if name in schema.names), None)
    if taken is not None:
        raise StartupError(f"{of} has a column {taken} already: {what_to_do(taken)}")
    return columns


def with_scores(table: Any, rows: Sequence[Row], outcomes: Sequence[Outcome], columns: Mapping[str, Any]) -> Any:
    """The table or record batch, and `columns` behind its own."""
    found = [scored(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)]
    for name, kind in columns.items():
        table = table.append_column(name, arrow().array([each.get(name) for each in found], kind))
    return table


def without_texts(table: Any) -> Any:
    return table.drop_columns([name for name in table.schema.names if name in TEXT_FIELDS])


@contextmanager
def tables(file: IO[bytes], of: Source, drop_texts: bool) -> Iterator[TableTarget]:
    """A Parquet file that is complete when the block ends."""
    pa = arrow()
    schema, columns = _layout(of)
    empty = with_scores(schema.empty_table(), [], [], columns)
    with (
        _fitting(of.path),
        _parquet().ParquetWriter(
            file, (without_texts(empty) if drop_texts else empty).schema, compression="zstd"
        ) as writer,
    ):
        target = TableTarget(writer, pa.struct(list(schema)), columns, drop_texts)
        yield target
        target.flush()


@dataclass(slots=True)
class TableTarget:
    """Collects batches until they are worth a row group. `own` is the type of a row as it was read."""

    writer: Any
    own: Any
    columns: Mapping[str, Any]
    drop_texts: bool
    waiting: list[Any] = field(default_factory=list)

    def write(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        table = batch.table if isinstance(batch, TableBatch) else self._table(batch.objects())
        table = with_scores(table, batch.rows, outcomes, self.columns)
        self.waiting.append(without_texts(table) if self.drop_texts else table)
        if sum(each.nbytes for each in self.waiting) >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.writer.write_table(arrow().Table.from_batches(self.waiting))
            self.waiting.clear()

    def _table(self, values: Sequence[Any]) -> Any:
        pa = arrow()
        return pa.RecordBatch.from_struct_array(pa.array(list(map(_fields, values)), self.own))


def arrow() -> Any:
    """Raises `StartupError` that says how to install it."""
    return require("pyarrow", "parquet")


def _parquet() -> Any:
    return require("pyarrow.parquet", "parquet")


def _score_type(listed: bool) -> Any:
    number = arrow().float32()
    return arrow().list_(number) if listed else number


def _layout(of: Source) -> tuple[Any, dict[str, Any]]:
    """Schema of what was read, and columns of scores; of JSON Lines it takes reading them all."""
    if isinstance(of, TableSource):
        return of.schema, score_columns(of.schema, of.score)
    pa = arrow()
    schema, columns = pa.schema([]), {}
    with _fitting(of.path):
        for batch in of.batches():
            own = pa.schema(list(pa.array(list(map(_fields, batch.objects()))).type))
            schema = pa.unify_schemas([schema, own], promote_options="permissive")
            for row in batch.rows:
                columns.update({each.scores: _score_type(each.listed) for each in row.fields})
    taken = next((name for name in columns if name in schema.names), None)
    if taken is not None:
        raise _no_table(of.path, f"one has a field {taken} already")
    return schema, columns | {PROBLEM: pa.string()}


def _fields(value: Any) -> dict[str, Any]:
    return {name: own for name, own in value.items() if name != PROBLEM} if isinstance(value, dict) else {}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, arrow().ArrowException) as error:
        raise unreadable(path, error) from None


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except (arrow().ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise _no_table(path, reason(error)) from None


def _no_table(path: Path, why: str) -> StartupError:
    return StartupError(f"the lines of {path} make no table ({why}): write .jsonl; {_KEPT}")
