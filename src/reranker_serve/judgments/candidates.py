"""Which documents of each query are to be ranked: what a first stage found, or what was judged."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reranker_serve.errors import StartupError
from reranker_serve.judgments.collection import Judgments, Run
from reranker_serve.judgments.extras import require
from reranker_serve.judgments.lines import columns, refuse

logger = logging.getLogger(__name__)

Stage = Literal["run", "bm25", "judged"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """`run` has every query's candidates with the first stage's scores, best first, `texts` their texts.

    `ranked` says whether those scores mean anything: what was judged comes in no order.
    """

    name: str
    run: Run
    texts: dict[str, str]
    ranked: bool = True


def candidates(judgments: Judgments, top: int, stage: Stage | None = None) -> Candidates:
    """The best `top` of the run if there is one, else of BM25 where there is a corpus to search, else all that is
    judged; `stage` says otherwise. Candidates without a text are left out, with a warning. Raises `StartupError`."""
    stage = stage or ("run" if judgments.run else "bm25" if judgments.searchable else "judged")
    if stage == "judged":
        return _with_texts(judgments, "judged documents", _judged(judgments), ranked=False)
    if stage == "run":
        if not judgments.run:
            raise StartupError("there is no run: name its file with --run")
        return _with_texts(judgments, judgments.run.name, read_run(judgments.run, judgments.queries, top), ranked=True)
    documents = dict(judgments.documents)
    found = bm25(documents, judgments.queries, top)
    return Candidates("BM25", found, {name: documents[name] for ranking in found.values() for name in ranking})


def read_run(path: Path, queries: Collection[str], top: int) -> Run:
    """A TREC run, `query Q0 document rank score tag`: the best `top` of these queries, by score as in trec_eval."""
    best: dict[str, list[tuple[float, str]]] = {}
    for number, (query, _, document, _, score, _) in columns(path, 6):
        if query not in queries:
            continue
        try:
            row = float(score), document
        except ValueError:
            refuse(path, number, f"the score {score!r} is not a number")
        heap = best.setdefault(query, [])
        if len(heap) < top:
            heapq.heappush(heap, row)
        else:
            heapq.heappushpop(heap, row)
    return {
        query: {name: score for score, name in sorted(best[query], reverse=True)} for query in queries if query in best
    }


def bm25(documents: dict[str, str], queries: dict[str, str], top: int) -> Run:
    """The best `top` documents of each query by BM25 (English stop words, no stemming)."""
    bm25s = require("bm25s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    if not documents:
        raise StartupError("there are no documents to search")
    ids, texts = list(documents), list(documents.values())
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(queries.values()), stopwords="en", show_progress=False)
    found, scores = retriever.retrieve(asked, k=min(top, len(ids)), show_progress=False)
    return {
        query: {ids[document]: float(score) for document, score in zip(found[row], scores[row], strict=True)}
        for row, query in enumerate(queries)
    }


def _judged(judgments: Judgments) -> Run:
    # By id, so that a model whose scores depend on the documents' order learns nothing from it.
    return {query: dict.fromkeys(sorted(judgments.grades[query]), 0.0) for query in judgments.queries}


def _with_texts(judgments: Judgments, name: str, run: Run, *, ranked: bool) -> Candidates:
    wanted = {document for ranking in run.values() for document in ranking}
    texts = judgments.documents.of(wanted)
    if len(texts) < len(wanted):
        missing = min(wanted - texts.keys())
        logger.warning("%d of the %s have no text, such as %s: left out", len(wanted) - len(texts), name, missing)
    known = {
        query: {document: score for document, score in ranking.items() if document in texts}
        for query, ranking in run.items()
    }
    if not any(known.values()):
        raise StartupError(f"none of the {name} has a text")
    return Candidates(name, {query: ranking for query, ranking in known.items() if ranking}, texts, ranked)
