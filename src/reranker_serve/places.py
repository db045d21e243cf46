"""Sentences of a document: where they are, which of them are asked for, and how those come back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of a sentence in its text: its first character, and the one behind its last.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SpanOptions:
    """Which sentences of a document come back: at most `max_spans`, those that score `threshold` or more.

    The threshold is on the scale of the scores that come back; None: 0.1 of relevance.
    """

    threshold: float | None = None
    max_spans: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A sentence of a document: its characters (code points) from `start` up to `end`, and its score."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Sentences:
    """Where a document's sentences are; `owners`, [vectors], tells for each vector that is read
    of its items, one item after the other, of which sentence it is: -1 for none."""

    places: tuple[Place, ...]
    owners: NDArray[np.int32]
