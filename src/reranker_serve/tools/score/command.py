"""The `score` command: its arguments, and the two passes over the file.

In the first pass scores go to a journal, OUTPUT.part; in the second, which takes little, they are written beside what
was read. So a kill at any moment loses and doubles nothing, whatever the format, and OUTPUT is whole when it is there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reranker_serve.api.options import Options
from reranker_serve.calibration import Basis
from reranker_serve.errors import StartupError
from reranker_serve.judgments.extras import require
from reranker_serve.settings import Settings
from reranker_serve.tools.in_process import in_process, load_in_process
from reranker_serve.tools.judged import check_output
from reranker_serve.tools.score.files import TABLE, check_name, source, target
from reranker_serve.tools.score.journal import Journal
from reranker_serve.tools.score.lines import Source
from reranker_serve.tools.score.pipeline import Chunk, RowScorer, chunks, score_all, unlimited
from reranker_serve.tools.score.progress import Progress
from reranker_serve.tools.score.rows import PROBLEM, Outcome, Row
from reranker_serve.types import Scorer

SOME_WRONG = 3
# Of the API's options those that a file of pairs can have.
_OPTIONS = (
    "max_tokens_per_doc",
    "max_tokens_per_query",
    "truncate",
    "truncation_side",
    "max_chunks_per_doc",
    "overlap_tokens",
)
_EVERY_S, _EVERY_S_IN_A_LOG = 0.5, 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", type=Path, metavar="INPUT", help="JSON Lines (.jsonl, or .jsonl.gz) or .parquet: see docs/offline.md"
    )
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUTPUT",
        help="the same lines with their scores, in any of these formats; OUTPUT.part, from which a run that was stopped"
        " goes on, is beside it meanwhile",
    )
    parser.add_argument("--drop-texts", action="store_true", help="write the scores without the texts")
    parser.add_argument(
        "--score-name", default="score", metavar="NAME", help="field of the score (default score; of a list scores)"
    )
    options = parser.add_argument_group("options of the API", "as in a request, for all lines")
    options.add_argument("--raw-scores", action="store_true", help="scores on the model's own scale instead of 0 to 1")
    for name in _OPTIONS:
        description = (Options.model_fields[name].description or "").replace("%", "%%")
        options.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=description)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be scored, and where it goes."""

    lines: Source
    output: Path
    options: Options
    drop_texts: bool = False

    @property
    def journal(self) -> Path:
        return self.output.with_name(f"{self.output.name}.part")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """0 if every line has scores, 3 if some could not be scored. Raises `StartupError` with one line."""
    options = _options(arguments)
    job = Job(source(arguments.input, arguments.score_name), arguments.output, options, arguments.drop_texts)
    check(job)
    return score_file(job, load_in_process(settings), settings)


def check(job: Job) -> None:
    """Before the model is loaded. Raises `StartupError` with one line."""
    check_name(job.output)
    check_output(job.output)
    if job.output.suffix == TABLE:
        require("pyarrow", "parquet")
    if job.output.exists() and not job.journal.exists():
        raise _there_already(job)
    # What is wrong with the first line is wrong with all, mostly.
    first = next((row for batch in job.lines.batches(texts_only=True) for row in batch.rows), None)
    if first and first.problem:
        raise StartupError(f"{job.lines.path} line {first.number}: {first.problem}")


def _there_already(job: Job) -> StartupError:
    return StartupError(f"{job.output} is there already: remove it, or choose another name")


def score_file(job: Job, scorer: Scorer, settings: Settings) -> int:
    """From where it was left. Returns and raises what `run` does."""
    with Journal(job.journal, _header(scorer, settings, job.options)) as journal:
        if journal.is_new and job.output.exists():  # another process completed it while the model was loaded
            journal.path.unlink()
            raise _there_already(job)
        try:
            asyncio.run(_score(job, scorer, settings, journal))
        except KeyboardInterrupt:
            print(f"stopped: {journal.path} has what is scored, and the same command goes on", file=sys.stderr)
            raise
        written = _write(job, journal)
        journal.path.unlink()
    print(f"{job.output}: {written.lines:,} lines, {written.scores:,} scores")
    if not written.wrong:
        return 0
    print(
        f"lines without a score: {written.wrong:,}; `{PROBLEM}` tells why, and the first is {written.first}",
        file=sys.stderr,
    )
    return SOME_WRONG


async def _score(job: Job, scorer: Scorer, settings: Settings, journal: Journal) -> None:
    """What the journal does not have yet."""
    with in_process(scorer, unlimited(settings)) as reranker:
        rows, share = await asyncio.to_thread(_left, job.lines, journal)
        report = _Report(share)

        def done(chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
            journal.add(chunk.rows, outcomes)
            report.add(chunk)

        try:
            some = chunks(rows, reranker.token_budget, scorer.family.max_length_bounds[1])
            await score_all(some, RowScorer(reranker, job.options), done)
        finally:
            report.close()


def _left(lines: Source, journal: Journal) -> tuple[Iterator[tuple[Row, float]], float]:
    """Rows that are not scored yet, each with the share of the file up to it; and the share that is done."""
    rows = ((row, batch.share) for batch in lines.batches(texts_only=True) for row in batch.rows)
    share = 0.0
    for checksum, _ in journal.outcomes():
        row, share = next(rows, (None, share))
        journal.check(row, checksum)
    return rows, share


@dataclass(slots=True)
class _Written:
    """What the output holds; `first` is the first line without scores."""

    lines: int = 0
    scores: int = 0
    wrong: int = 0
    first: str = ""

    def count(self, row: Row, outcome: Outcome) -> None:
        self.lines += 1
        if not isinstance(outcome, str):
            self.scores += len(outcome)
            return
        self.first = self.first or f"line {row.number}: {outcome}"
        self.wrong += 1


def _write(job: Job, journal: Journal) -> _Written:
    written = _Written()
    known = journal.outcomes()
    with target(job.output, job.lines, job.drop_texts) as file:
        for batch in job.lines.batches():
            outcomes: list[Outcome] = []
            for row, (checksum, outcome) in zip(batch.rows, known, strict=False):
                journal.check(row, checksum)
                written.count(row, outcome)
                outcomes.append(outcome)
            if len(outcomes) < len(batch.rows):
                raise StartupError(f"{job.lines.path} has more lines than when it was read: the same command goes on")
            file.write(batch, outcomes)
        for checksum, _ in known:
            journal.check(None, checksum)
    return written


def _options(arguments: argparse.Namespace) -> Options:
    given = {name: getattr(arguments, name) for name in _OPTIONS if getattr(arguments, name) is not None}
    try:
        return Options.model_validate(given | ({"raw_scores": True} if arguments.raw_scores else {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]).replace("_", "-")
        why = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise StartupError(f"--{name} {first['input']} is not valid: it {why}") from None


def _header(scorer: Scorer, settings: Settings, options: Options) -> dict[str, Any]:
    """All that changes a score."""
    basis = Basis.of(scorer, settings.instruction).model_dump()
    return {**basis, "trust_text": settings.trust_text, "options": options.model_dump(exclude_none=True)}


class _Report:
    """Progress on standard error: one line that is renewed, or one line now and then where that is no terminal."""

    def __init__(self, share: float) -> None:
        self._progress = Progress(time.monotonic(), share)
        self._renewed = sys.stderr.isatty()
        self._pairs = 0
        self._share = share
        self._told = time.monotonic()

    def add(self, chunk: Chunk) -> None:
        self._pairs += sum(len(row.texts) for row in chunk.rows)
        self._share = chunk.share
        if time.monotonic() - self._told >= (_EVERY_S if self._renewed else _EVERY_S_IN_A_LOG):
            self._tell(end="" if self._renewed else "\n")

    def close(self) -> None:
        self._tell(end="\n")

    def _tell(self, end: str) -> None:
        self._told = time.monotonic()
        line = self._progress.line(self._pairs, self._share, self._told)
        print(f"\r{line}\033[K" if self._renewed else line, end=end, file=sys.stderr, flush=True)
