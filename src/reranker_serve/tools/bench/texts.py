"""Queries and documents to send: made up, with counts and lengths from a distribution, or from a file."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Protocol

from reranker_serve.errors import StartupError

_LONGEST = 100_000
_STREAM_WORDS = 200_000
_QUERY_WORDS = 8
# Common words, so that tokenizers do with them what they do with prose.
_WORDS = re.findall(
    r"\w+",
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which"
    " one you were all her she there would their we him been has when who will no more if out so up said what its"
    " about than into them can only other time new some could these two may first then do any like my now over such"
    " our man me even most made after also did many before must through years where much your way well down should"
    " because each just state those people how too little world good make water energy light plant science market"
    " between government system company program question during without again place against important national house"
    " school night children student history language research evidence protein patients treatment study temperature"
    " distribution knowledge international development understanding photosynthesis infrastructure characteristics",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks."""

    query: str
    documents: tuple[str, ...]


class Sizes(Protocol):
    """A distribution of whole numbers above 0."""

    def draw(self, source: random.Random) -> int: ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """From `least` to `most`, both included."""

    least: int
    most: int

    def draw(self, source: random.Random) -> int:
        return source.randint(self.least, self.most)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half below `median`; `sigma` is that of the logarithm. At most ten times the median."""

    median: int
    sigma: float = 0.7

    def draw(self, source: random.Random) -> int:
        drawn = source.lognormvariate(math.log(self.median), self.sigma)
        return max(1, min(round(drawn), 10 * self.median))


def parse_sizes(text: str) -> Sizes:
    """`10`, `5-50` (uniform), `lognormal:90` or `lognormal:90:0.7`. Raises `ValueError`."""
    name, *numbers = text.split(":")
    if name == "lognormal" and 1 <= len(numbers) <= 2:
        return LogNormal(_size(numbers[0]), *(_sigma(number) for number in numbers[1:]))
    least, dash, most = text.partition("-")
    bounds = _size(least), _size(most if dash else least)
    if bounds[0] > bounds[1]:
        raise ValueError(f"{text} counts down")
    return Uniform(*bounds)


def made_up(documents: Sizes, words: Sizes, seed: int) -> Iterator[Question]:
    """Endless; no two documents are the same, and the same seed asks the same."""
    source = random.Random(seed)
    stream = source.choices(_WORDS, k=_STREAM_WORDS)

    def passage(length: int) -> str:
        start = source.randrange(_STREAM_WORDS)
        chosen = stream[start : start + length]
        while len(chosen) < length:
            chosen += stream[: length - len(chosen)]
        return " ".join(chosen)

    number = 0
    while True:
        texts = []
        for _ in range(documents.draw(source)):
            number += 1
            # The number makes it a text of its own, that no cache can know.
            texts.append(f"{passage(max(1, words.draw(source) - 1))} {number}")
        yield Question(passage(_QUERY_WORDS), tuple(texts))


def from_file(path: Path) -> Iterator[Question]:
    """The lines of a JSONL file of `query` and `documents`, over and over. Raises `StartupError`."""
    try:
        with path.open(encoding="utf-8") as lines:
            questions = [_question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from None
    if not questions:
        raise StartupError(f"{path} holds no requests")
    return cycle(questions)


def _question(path: Path, number: int, line: str) -> Question:
    try:
        row = json.loads(line)
        query, documents = row["query"], row["documents"]
    except (ValueError, KeyError, TypeError):
        raise StartupError(f"{path} line {number} is not an object with query and documents") from None
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise StartupError(f"{path} line {number}: query must be a string, documents a list that is not empty")
    if not all(isinstance(document, str) for document in documents):
        raise StartupError(f"{path} line {number}: documents must be strings")
    return Question(query, tuple(documents))


def _size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LONGEST:
        raise ValueError(f"{text!r} is not a number from 1 to {_LONGEST}")
    return int(text)


def _sigma(text: str) -> float:
    sigma = float(text)
    if not 0 < sigma <= 3:
        raise ValueError(f"{text} is not a sigma above 0 and up to 3")
    return sigma
