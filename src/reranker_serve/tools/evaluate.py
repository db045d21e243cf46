"""`reranker-serve evaluate JUDGMENTS`: ranking quality on judged queries.

A first stage finds the candidates, by default BM25, and the model reorders them; nDCG@10 and MRR@10 of both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from reranker_serve.judgments.candidates import Candidates
from reranker_serve.judgments.collection import Judgments, Run
from reranker_serve.judgments.extras import require
from reranker_serve.judgments.measures import per_query
from reranker_serve.settings import Settings
from reranker_serve.tools.in_process import Ask, in_order, load_in_process, run_in_process
from reranker_serve.tools.judged import add_data_arguments, candidates_of, check_output, read_arguments
from reranker_serve.tools.remote import Remote, RemoteRanker
from reranker_serve.types import RerankRequest, Scorer

# (query, documents) -> one score a document, in their order
Score = Callable[[str, Sequence[str]], list[float]]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured. Seconds are those of reranking alone; `first` is what found the candidates, its figures None
    where that has no order."""

    collection: str
    model: str
    dtype: str
    queries: int
    documents: int
    first: str
    first_ndcg10: float | None
    first_mrr10: float | None
    model_ndcg10: float
    model_mrr10: float
    pairs: int
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("judgments", type=Path, help="a BEIR folder, or a file of judgments")
    add_data_arguments(parser)
    parser.add_argument("--url", help="score with a running server instead of in-process, of any API, as in URL#tei")
    parser.add_argument("--key", help="the server's API key, with --url")
    parser.add_argument("--json", type=Path, help="write the result to this file as well")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Measure, print a table, and write JSON if asked. Raises `StartupError` with one line."""
    check_output(arguments.json)
    judgments = read_arguments(arguments.judgments, arguments)
    found = candidates_of(judgments, arguments)
    if arguments.url:
        report = _over_http(judgments, found, arguments)
    else:
        report = _in_process(judgments, found, load_in_process(settings), settings)
    print(table(report))
    if arguments.json:
        versions = {name: version(name) for name in ("reranker-serve", "torch", "transformers", "bm25s", "ir-measures")}
        arguments.json.write_text(json.dumps(asdict(report) | {"versions": versions}, indent=2) + "\n")
    return 0


def rerank(judgments: Judgments, found: Candidates, score: Score) -> Run:
    """The same candidates, scored by the model."""
    reranked: Run = {}
    for query, ranking in require("tqdm").tqdm(found.run.items(), desc=judgments.name, unit="query"):
        scores = score(judgments.queries[query], [found.texts[document] for document in ranking])
        reranked[query] = dict(zip(ranking, scores, strict=True))
    return reranked


def quality(judgments: Judgments, run: Run) -> tuple[float, float]:
    """nDCG@10 and MRR@10."""
    values = per_query(judgments.grades, run)
    return float(values["nDCG@10"].mean()), float(values["MRR@10"].mean())


def evaluate(judgments: Judgments, found: Candidates, score: Score, model: str, dtype: str) -> Report:
    """Compare the first stage with the model on the same candidates."""
    start = time.perf_counter()
    reranked = rerank(judgments, found, score)
    seconds = time.perf_counter() - start
    before: tuple[float | None, float | None] = quality(judgments, found.run) if found.ranked else (None, None)
    after = quality(judgments, reranked)
    return Report(
        collection=judgments.name,
        model=model,
        dtype=dtype,
        queries=len(judgments.queries),
        documents=len(found.texts),
        first=found.name,
        first_ndcg10=before[0],
        first_mrr10=before[1],
        model_ndcg10=after[0],
        model_mrr10=after[1],
        pairs=sum(len(ranking) for ranking in found.run.values()),
        seconds=seconds,
    )


def table(report: Report) -> str:
    model = f"{report.model} ({report.dtype})"
    rows = [
        f"{report.collection}: {report.queries} queries; {report.pairs} pairs of {report.first}, reranked",
        f"{'':<52} nDCG@10  MRR@10",
    ]
    if report.first_ndcg10 is not None:
        rows.append(f"{report.first:<52} {report.first_ndcg10:7.4f} {report.first_mrr10:7.4f}")
    rows.append(f"{model:<52} {report.model_ndcg10:7.4f} {report.model_mrr10:7.4f}")
    rows.append(f"{report.pairs} pairs in {report.seconds:.1f} s, {report.pairs / report.seconds:.1f} pairs/s")
    return "\n".join(rows)


def _in_process(judgments: Judgments, found: Candidates, scorer: Scorer, settings: Settings) -> Report:
    def work(ask: Ask) -> Report:
        def score(query: str, documents: Sequence[str]) -> list[float]:
            return in_order(ask(RerankRequest(query, tuple(documents), raw_scores=True)))

        return evaluate(judgments, found, score, scorer.info.name, scorer.backend.dtype)

    return run_in_process(scorer, settings, work)


def _over_http(judgments: Judgments, found: Candidates, arguments: argparse.Namespace) -> Report:
    ranker = RemoteRanker(Remote.parse(arguments.url, arguments.key))
    try:
        about = ranker.about
        name, precision = about["model"] or arguments.url, about["precision"] or "precision unknown"
        return evaluate(judgments, found, lambda query, texts: ranker.score(query, texts)[0], name, precision)
    finally:
        ranker.close()
