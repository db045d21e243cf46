"""The `compare` command: its arguments, the scoring, and what it writes."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from reranker_serve.errors import StartupError
from reranker_serve.judgments.candidates import Candidates
from reranker_serve.judgments.collection import Judgments
from reranker_serve.judgments.extras import require
from reranker_serve.judgments.measures import answerable
from reranker_serve.settings import Settings
from reranker_serve.tools.compare.analysis import analyse
from reranker_serve.tools.compare.contestants import Contestant, Local, Ranker, contestants
from reranker_serve.tools.compare.local import LocalRanker
from reranker_serve.tools.compare.report import draw, report
from reranker_serve.tools.compare.scores import ScoreFile, candidates_digest
from reranker_serve.tools.judged import add_data_arguments, candidates_of, check_output, count, read_arguments
from reranker_serve.tools.remote import RemoteRanker

logger = logging.getLogger(__name__)

_WARM_UP = "What is asked before anything is measured?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="folder, hub id or `demo`, with a precision or settings as in MODEL@int8 or MODEL@max_length=256; or a"
        " server's URL, with its API and model where asking does not tell, as in URL#tei or URL#cohere:NAME. All are"
        " compared with the first",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="JUDGMENTS", help="a BEIR folder, or a file")
    add_data_arguments(parser)
    parser.add_argument(
        "--key", action="append", default=[], help="a server's API key, once for each URL in their order; '' for none"
    )
    parser.add_argument("--cutoff", type=count, default=10, metavar="K", help="of nDCG@K and others (default 10)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("compare.json"),
        metavar="FILE",
        help="the result (default compare.json); beside it are compare.scores.jsonl, from which a comparison that was"
        " stopped goes on, and for more than two models compare.png",
    )


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Score, print the report and write it. Raises `StartupError` with one line."""
    check_output(arguments.output, (".json",))
    who = contestants(arguments.models, arguments.key, settings)
    if len(who) < 2:
        raise StartupError("name two models to compare, or more")
    for name in ("ir_measures", "tqdm", *(["matplotlib"] if len(who) > 2 else [])):
        require(name)
    judgments = _answerable(read_arguments(arguments.data, arguments))
    found = candidates_of(judgments, arguments)
    output: Path = arguments.output
    path = output.with_suffix(".scores.jsonl")
    with ScoreFile(path, candidates_digest(judgments, found), who) as scores:
        score(judgments, found, who, scores)
        analysis = analyse(judgments, found, scores.scored, arguments.cutoff)
    print(report(analysis))
    written = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "version": version("reranker-serve")}
    output.write_text(json.dumps(written | asdict(analysis), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if len(who) > 2:
        draw(analysis, output.with_suffix(".png"))
        print(f"quality over speed: {output.with_suffix('.png')}")
    return 0


def score(judgments: Judgments, found: Candidates, who: Sequence[Contestant], file: ScoreFile) -> None:
    """What the file does not have yet, query by query by all contestants, each in turn first: what else the machine
    does meanwhile meets all alike."""
    left = {one.label: [query for query in found.run if query not in file.scored[one.label].scores] for one in who}
    missing, rankings = sum(map(len, left.values())), len(who) * len(found.run)
    if missing < rankings:
        logger.warning("%d of %d rankings are in the file of scores already", rankings - missing, rankings)
    with ExitStack() as open_ones:
        rankers: dict[str, Ranker] = {}
        for one in who:
            if left[one.label]:
                rankers[one.label] = ranker = _open(one)
                open_ones.callback(ranker.close)
                file.opened(one.label, ranker.about)
        for ranker in rankers.values():
            ranker.score(_WARM_UP, [found.texts[name] for name in next(iter(found.run.values()))])
        with require("tqdm").tqdm(total=missing, desc="scoring", unit="ranking", disable=not missing) as progress:
            for number, (query, ranking) in enumerate(found.run.items()):
                documents = [found.texts[name] for name in ranking]
                for label in _in_turn(list(rankers), number):
                    if query not in file.scored[label].scores:
                        file.add(label, query, *rankers[label].score(judgments.queries[query], documents))
                        progress.update()


def _open(one: Contestant) -> Ranker:
    return LocalRanker(one.label, one.where.settings) if isinstance(one.where, Local) else RemoteRanker(one.where)


def _in_turn(labels: list[str], number: int) -> list[str]:
    start = number % len(labels) if labels else 0
    return labels[start:] + labels[:start]


def _answerable(judgments: Judgments) -> Judgments:
    kept = answerable(judgments.grades)
    if not kept:
        raise StartupError(f"{judgments.name}: no query has a relevant document, that is a grade above 0")
    if len(kept) < len(judgments.queries):
        logger.warning("%d queries have no relevant document: left out", len(judgments.queries) - len(kept))
    return judgments.among([query for query in judgments.queries if query in set(kept)])
