"""Where the sentences of a text are: by sentencex, which knows languages that put no blanks between them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import sentencex

from reranker_serve.places import Place
from reranker_serve.types import FloatArray, TokenArray

# The segmenter sees so many characters at a time: of Chinese it takes the square of a paragraph's length.
_PIECE = 2048
# Only the abbreviations differ between its languages, and which one a text is in nobody says.
_LANGUAGE = "en"
# What it cannot take, or takes for other than a blank (it has no place for U+00A0 behind an initial), in its words.
_ODD = re.compile(r"[^\S \t-\r\x1c-\x1f]|[\x85\u2028\u2029\ud800-\udfff]")
_LINE_ENDS = "\x85\u2028\u2029"
# So many characters back a sentence is cut elsewhere than between a letter and its marks.
_MARKS = 16
_JOINER = "\u200d"


def sentences(text: str, longest: int) -> Iterator[Place]:
    """Each without the blanks around it, in order; what is longer than `longest` (32 at least) comes in several.

    A blank text has none. Takes time in proportion to the text.
    """
    assert longest >= 2 * _MARKS
    start = 0
    while start < len(text):
        stop = _between_letters(text, start + _PIECE) if start + _PIECE < len(text) else len(text)
        piece = _ODD.sub(_plain, text[start:stop])
        ends = _ends(piece)
        # The last one may go on behind the piece: it begins the next, unless that would be the same again.
        if stop < len(text) and len(ends) > 1 and ends[-2] > len(piece) // 2:
            ends.pop()
        begin = 0
        for end in ends:
            for first, last in _cut(piece, begin, end, longest):
                yield start + first, start + last
            begin = end
        start += begin


def owners(found: Sequence[Place], places: TokenArray) -> TokenArray:
    """Of each place in a text, the number of the sentence that it is in; -1 for none."""
    if not found:
        return np.full_like(places, -1)
    starts, stops = np.array(found, dtype=np.int32).T
    at = np.searchsorted(starts, places, side="right").astype(np.int32) - 1
    return np.where(places < stops[at], at, -1)


def by_owner(vectors: FloatArray, numbers: TokenArray) -> dict[int, FloatArray]:
    """The vectors of each sentence that has any."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    parts = np.split(vectors[order], starts[1:])
    return {number: part for number, part in zip(found.tolist(), parts, strict=True) if number >= 0}


def _ends(piece: str) -> list[int]:
    """Where each sentence ends, the last one where the piece does."""
    try:
        found = sentencex.get_sentence_boundaries(_LANGUAGE, piece)
    except BaseException as error:
        # A fault in Rust, which is no Exception in Python: no text may end the process.
        if type(error).__module__ != "pyo3_runtime":
            raise
        return [len(piece)]
    return [boundary["end_index"] for boundary in found]


def _plain(found: re.Match[str]) -> str:
    character = found[0]
    if character in _LINE_ENDS:
        return "\n"
    return " " if character.isspace() else "\ufffd"


def _cut(text: str, start: int, end: int, longest: int) -> Iterator[Place]:
    """The sentence without the blanks around it, cut where it is too long: at the last blank in its second half."""
    while start < end:
        start = end - len(text[start:end].lstrip())
        stop = end
        if end - start > longest:
            stop = text.rfind(" ", start + longest // 2, start + longest + 1)
            stop = _between_letters(text, start + longest) if stop < 0 else stop
        kept = len(text[start:stop].rstrip())
        if kept:
            yield start, start + kept
        start = stop


def _between_letters(text: str, stop: int) -> int:
    """The last place up to `stop` that is not within what a reader takes for one letter."""
    for place in range(stop, stop - _MARKS, -1):
        if text[place - 1] != _JOINER and not _continues(text[place]):
            return place
    return stop


@cache
def _continues(character: str) -> bool:
    return character == _JOINER or unicodedata.category(character) in {"Mn", "Mc", "Me", "Sk"}
