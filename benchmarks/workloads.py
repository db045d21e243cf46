"""The workloads, on real text cut to token lengths with the model's own tokenizer."""

from __future__ import annotations

import gzip
import json
import math
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.pairs import Request

# Tokens of a template around the texts of a pair, for XLM-R.
_TEMPLATE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Workload:
    """A round is `requests` requests of `documents` documents, from `callers` at a time.

    `tokens` is each document's length; None: mixed (lognormal, median 140, at most 440). With
    `full` the documents are as long as makes the pair `tokens` long.
    """

    name: str
    meaning: str
    callers: int
    requests: int
    documents: int
    tokens: int | None = None
    full: bool = False


def mixed_length(source: random.Random) -> int:
    """Tokens of a document where lengths are mixed: lognormal, median 140, at most 440."""
    return max(12, min(440, round(source.lognormvariate(math.log(140), 0.6))))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("A", "one caller, 32 documents, mixed lengths", 1, 2, 32),
        Workload("B", "8 callers, 16 documents each, mixed lengths", 8, 16, 16),
        Workload("C", "one caller, 100 documents of 30 tokens", 1, 1, 100, 30),
        Workload("D", "one caller, 16 documents, pairs of 512 tokens", 1, 1, 16, 512, full=True),
        Workload("E", "one caller, 1,000 documents, mixed lengths", 1, 1, 1000),
        Workload("F", "a file of 2,000 pairs; over HTTP 8 callers, 100 documents each, mixed lengths", 8, 20, 100),
    )
}


class Texts:
    """Real queries and documents, cut to length. `data` has `pairs/` and `collections/`."""

    def __init__(self, tokenizer_folder: Path, data: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._data = data

    def round(self, workload: Workload, number: int) -> list[Request]:
        """The requests of a round; no two rounds have a document in common but by chance."""
        source = random.Random(f"{workload.name} {number}")
        return [self._request(workload, source) for _ in range(workload.requests)]

    def tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def pair_tokens(self, request: Request) -> list[int]:
        """Tokens of each pair with its template."""
        query = self.tokens(request.query)
        return [query + self.tokens(document) + _TEMPLATE_TOKENS for document in request.documents]

    def _request(self, workload: Workload, source: random.Random) -> Request:
        query = source.choice(self._queries)
        asked = self.tokens(query) + _TEMPLATE_TOKENS
        lengths = [self._length(workload, source, asked) for _ in range(workload.documents)]
        return Request(query, tuple(self._document(length, source) for length in lengths))

    @staticmethod
    def _length(workload: Workload, source: random.Random, asked: int) -> int:
        if workload.tokens is None:
            return mixed_length(source)
        # Text cut out of its context may have a token more than it had there.
        return workload.tokens - asked - 2 if workload.full else workload.tokens

    def _document(self, tokens: int, source: random.Random) -> str:
        """Prose from a random place, its first `tokens` tokens."""
        start = source.randrange(len(self._abstracts))
        text, at = self._abstracts[start], start
        while True:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            if len(encoding.ids) > tokens:
                return text[: encoding.offsets[tokens - 1][1]].strip()
            at += 1
            text += " " + self._abstracts[at % len(self._abstracts)]

    @cached_property
    def _queries(self) -> list[str]:
        with gzip.open(self._data / "pairs" / "squad_nqg.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line)["query"] for line, _ in zip(lines, range(2000), strict=False)]

    @cached_property
    def _abstracts(self) -> list[str]:
        with (self._data / "collections" / "scifact" / "corpus.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in lines]
