"""The arguments of every tool that reads judgments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from reranker_serve.errors import StartupError
from reranker_serve.judgments.candidates import Candidates, candidates
from reranker_serve.judgments.collection import Judgments
from reranker_serve.judgments.read import FORMATS, Source, read


def check_output(path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Before minutes of scoring. Raises `StartupError` where nothing could be written, or of another kind."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise StartupError(f"{path} cannot be written: there is no folder {path.parent}")
    if suffixes and path.suffix not in suffixes:
        raise StartupError(f"{path} should end in {' or '.join(suffixes)}")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """All but the path itself."""
    data = parser.add_argument_group("judgments")
    data.add_argument("--format", choices=FORMATS, help="of the judgments; told by their content when not given")
    data.add_argument("--split", default="test", help="file of grades in a BEIR folder (default test)")
    data.add_argument("--corpus", type=Path, help="the documents' texts: JSON Lines, or id, tab, text")
    data.add_argument("--topics", type=Path, help="the queries' texts: JSON Lines, or id, tab, text")
    data.add_argument("--queries", type=count, metavar="N", help="only the first N judged queries")
    data.add_argument("--run", dest="run_file", type=Path, help="TREC run of your first stage, to rerank")
    data.add_argument(
        "--candidates",
        choices=("run", "bm25", "judged"),
        help="rerank what the run has, what BM25 finds, or what is judged (default: the first of these that there is)",
    )
    data.add_argument("--top", type=count, default=50, help="rerank this many of the run's or BM25's best (default 50)")


def count(text: str) -> int:
    """Of an argument. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def read_arguments(path: Path, arguments: argparse.Namespace) -> Judgments:
    """Raises `StartupError` with one line."""
    source = Source(path, arguments.format, arguments.corpus, arguments.topics, arguments.run_file, arguments.split)
    return read(source).first(arguments.queries)


def candidates_of(judgments: Judgments, arguments: argparse.Namespace) -> Candidates:
    """Raises `StartupError` with one line."""
    return candidates(judgments, arguments.top, arguments.candidates)
