"""`reranker-serve evaluate FOLDER`: ranking quality on a judged collection in BEIR layout.

BM25 finds the candidates, the model reorders them; nDCG@10 and MRR@10 of both.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reranker_serve.errors import StartupError
from reranker_serve.settings import Settings
from reranker_serve.tools.in_process import Ask, in_order, load_in_process, run_in_process
from reranker_serve.types import RerankRequest, Scorer

# (query, documents) -> one score a document, in their order
Score = Callable[[str, Sequence[str]], list[float]]
# query id -> document id -> score
Run = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Collection:
    """A judged collection; `judged` is query id -> document id -> grade."""

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    judged: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured. Seconds are those of reranking alone."""

    collection: str
    model: str
    dtype: str
    queries: int
    documents: int
    top: int
    bm25_ndcg10: float
    bm25_mrr10: float
    model_ndcg10: float
    model_mrr10: float
    pairs: int
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="corpus.jsonl, queries.jsonl and qrels/test.tsv")
    parser.add_argument("--top", type=int, default=50, help="rerank this many of BM25's best (default 50)")
    parser.add_argument("--queries", type=int, help="only the first N judged queries")
    parser.add_argument("--url", help="score over HTTP with a running server instead of in-process")
    parser.add_argument("--key", help="the server's API key, with --url")
    parser.add_argument("--json", type=Path, help="write the result to this file as well")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Measure, print a table, and write JSON if asked. Raises `StartupError` with one line."""
    collection = read_collection(arguments.folder, arguments.queries)
    if arguments.url:
        report = _over_http(collection, arguments)
    else:
        report = _in_process(collection, arguments.top, load_in_process(settings), settings)
    print(table(report))
    if arguments.json:
        versions = {name: version(name) for name in ("reranker-serve", "torch", "transformers", "bm25s", "ir-measures")}
        arguments.json.write_text(json.dumps(asdict(report) | {"versions": versions}, indent=2) + "\n")
    return 0


def read_collection(folder: Path, limit: int | None = None) -> Collection:
    """Read a BEIR folder, its first `limit` judged queries. Raises `StartupError`."""
    judged: dict[str, dict[str, int]] = {}
    try:
        with (folder / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StartupError(f"{folder / 'qrels' / 'test.tsv'} cannot be read: {error}") from None
    documents = {
        row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in _rows(folder / "corpus.jsonl")
    }
    queries = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl") if row["_id"] in judged}
    chosen = dict(list(queries.items())[:limit])
    if not chosen or not documents:
        raise StartupError(f"{folder} has no judged queries or no documents")
    return Collection(folder.name, documents, chosen, {query: judged[query] for query in chosen})


def bm25(collection: Collection, top: int) -> Run:
    """The best `top` documents of each query by BM25 (English stop words, no stemming)."""
    bm25s = _import("bm25s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    ids, texts = list(collection.documents), list(collection.documents.values())
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(collection.queries.values()), stopwords="en", show_progress=False)
    found, scores = retriever.retrieve(asked, k=min(top, len(ids)), show_progress=False)
    return {
        query: {ids[document]: float(score) for document, score in zip(found[row], scores[row], strict=True)}
        for row, query in enumerate(collection.queries)
    }


def rerank(collection: Collection, candidates: Run, score: Score) -> Run:
    """The same candidates, scored by the model."""
    progress = _import("tqdm").tqdm
    reranked: Run = {}
    for query, found in progress(candidates.items(), desc=collection.name, unit="query"):
        scores = score(collection.queries[query], [collection.documents[document] for document in found])
        reranked[query] = dict(zip(found, scores, strict=True))
    return reranked


def quality(collection: Collection, run: Run) -> tuple[float, float]:
    """nDCG@10 and MRR@10."""
    ir_measures = _import("ir_measures")
    ndcg, mrr = ir_measures.nDCG @ 10, ir_measures.RR @ 10
    values = ir_measures.calc_aggregate([ndcg, mrr], collection.judged, run)
    return float(values[ndcg]), float(values[mrr])


def evaluate(collection: Collection, top: int, score: Score, model: str, dtype: str) -> Report:
    """Compare BM25 with the model on BM25's best `top`."""
    candidates = bm25(collection, top)
    start = time.perf_counter()
    reranked = rerank(collection, candidates, score)
    seconds = time.perf_counter() - start
    before, after = quality(collection, candidates), quality(collection, reranked)
    pairs = sum(len(found) for found in candidates.values())
    sizes = len(collection.queries), len(collection.documents)
    return Report(collection.name, model, dtype, *sizes, top, *before, *after, pairs, seconds)


def table(report: Report) -> str:
    model = f"{report.model} ({report.dtype})"
    return (
        f"{report.collection}: {report.queries} queries, {report.documents} documents,"
        f" BM25's top {report.top} reranked\n"
        f"{'':<52} nDCG@10  MRR@10\n"
        f"{'BM25':<52} {report.bm25_ndcg10:7.4f} {report.bm25_mrr10:7.4f}\n"
        f"{model:<52} {report.model_ndcg10:7.4f} {report.model_mrr10:7.4f}\n"
        f"{report.pairs} pairs in {report.seconds:.1f} s, {report.pairs / report.seconds:.1f} pairs/s"
    )


def _in_process(collection: Collection, top: int, scorer: Scorer, settings: Settings) -> Report:
    def work(ask: Ask) -> Report:
        def score(query: str, documents: Sequence[str]) -> list[float]:
            return in_order(ask(RerankRequest(query, tuple(documents), raw_scores=True)))

        return evaluate(collection, top, score, scorer.info.name, scorer.backend.dtype)

    return run_in_process(scorer, settings, work)


def _over_http(collection: Collection, arguments: argparse.Namespace) -> Report:
    httpx = _import("httpx")
    headers = {"Authorization": f"Bearer {arguments.key}"} if arguments.key else {}
    with httpx.Client(base_url=arguments.url, headers=headers, timeout=600) as client:

        def ask(method: str, path: str, **content: Any) -> Any:
            try:
                reply = client.request(method, path, **content)
            except httpx.HTTPError as error:
                raise StartupError(f"{arguments.url} does not answer: {error}") from None
            if reply.status_code != 200:
                raise StartupError(f"{arguments.url}{path} answered {reply.status_code}: {reply.text[:200]}")
            return reply.json()

        def score(query: str, documents: Sequence[str]) -> list[float]:
            body = {"query": query, "documents": list(documents), "raw_scores": True, "return_documents": False}
            rows = ask("POST", "/rerank", json=body)["results"]
            return [row["relevance_score"] for row in sorted(rows, key=lambda row: row["index"])]

        info = ask("GET", "/info")
        return evaluate(collection, arguments.top, score, info["model"], info["dtype"])


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                row = json.loads(line)
                if not isinstance(row.get("_id"), str) or not isinstance(row.get("text"), str):
                    raise StartupError(f"{path} line {number}: _id and text must be strings")
                yield row
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError) as error:
        raise StartupError(f"{path} line {number} is not a JSON object: {error}") from None


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise StartupError(f"evaluate needs {name}: pip install 'reranker-serve[evaluate]'") from None
