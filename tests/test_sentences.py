"""Sentences: where they are, in any text, and that no text makes it slow."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker_serve.sentences import _ends, by_owner, owners, sentences


def split(text: str, longest: int = 400) -> list[str]:
    return [text[start:stop] for start, stop in sentences(text, longest)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith left at 5 p.m. on Monday. Why? ", ["Dr. Smith left at 5 p.m. on Monday.", "Why?"]),
        ("这是句子。真的吗？好！", ["这是句子。", "真的吗？", "好！"]),
        ("これは文です。次の文です！", ["これは文です。", "次の文です！"]),
        ("كيف حالك؟ أنا بخير.", ["كيف حالك؟", "أنا بخير."]),
        ("यह वाक्य है। दूसरा वाक्य।", ["यह वाक्य है।", "दूसरा वाक्य।"]),
        ("😀 Hi there. 👩‍👩‍👧 A family! E\u0301te\u0301.", ["😀 Hi there.", "👩‍👩‍👧 A family!", "E\u0301te\u0301."]),
        ("A title\n\nA text. \u3000\n", ["A title", "A text."]),
        ("no end", ["no end"]),
        ("", []),
        (" \n\u3000\t ", []),
    ],
)
def test_where_sentences_are(text: str, expected: list[str]) -> None:
    assert split(text) == expected


ANY = st.text(
    st.characters(codec=None)
    | st.sampled_from(list(".!?。！？ \n\u3000\xa0\u2028\x85ZA\u0301\u200d👩👧“”(){}[]؟।\ud800"))
)


@given(st.lists(ANY, max_size=6).map("".join), st.integers(32, 64))
@settings(max_examples=500, deadline=None)
def test_offsets_in_any_text(text: str, longest: int) -> None:
    found = list(sentences(text, longest))
    assert all(0 < stop - start <= longest for start, stop in found)
    assert all(text[start:stop] == text[start:stop].strip() for start, stop in found)
    # In order, apart from each other, and with nothing but blanks between them.
    edges = [0, *(edge for place in found for edge in place), len(text)]
    assert edges == sorted(edges)
    assert not "".join(text[edges[at] : edges[at + 1]] for at in range(0, len(edges), 2)).strip()


@given(
    st.lists(st.sampled_from(["One two. ", "Is it? ", "这是句子。", "👩‍👩‍👧 ran! ", "E\u0301te\u0301. "]), max_size=900)
)
@settings(max_examples=20, deadline=None)
def test_a_long_text_is_cut_where_a_short_one_is(parts: list[str]) -> None:
    assert split("".join(parts)) == [part.strip() for part in parts]


def test_a_long_sentence_is_cut_at_a_blank() -> None:
    text = "word " * 300 + "end."
    found = split(text, 100)
    assert all(len(part) == 99 or part == found[-1] for part in found)
    assert " ".join(found) == text


@pytest.mark.parametrize("letter", ["👩‍👩‍👧", "e\u0301\u0323", "👍🏽"])
def test_no_letter_is_cut(letter: str) -> None:
    for before in range(len(letter)):
        found = split("x" * before + letter * 1000, 100)
        assert len(found) >= 20
        assert all(part.removeprefix("x" * before).replace(letter, "") == "" for part in found)


HOSTILE = [
    "。",
    "这。",
    "“",
    "「这。",
    "“a. ",
    "(a. ",
    "a\n\n",
    "\n",
    "Z\xa0. ",
    "Dr. ",
    "1. ",
    "\u0301",
    "\u200d",
    "a",
    ". ",
    " ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_grows_with_the_text(unit: str) -> None:
    """Eight times the text: sixty-four times the time, if it grew with the square."""
    short, long = seconds(unit * (50_000 // len(unit))), seconds(unit * (400_000 // len(unit)))
    assert long < 24 * short + 0.05


def seconds(text: str) -> float:
    start = time.perf_counter()
    for _ in sentences(text, 400):
        pass
    return time.perf_counter() - start


def test_a_text_that_the_segmenter_dies_of_is_one_sentence() -> None:
    text = "a Z\xa0. b"
    assert _ends(text) == [len(text)]
    assert split(text) == [text]


def test_vectors_belong_to_the_sentence_they_stand_in() -> None:
    places = np.array([-1, 0, 2, 3, 4, 6, 9], dtype=np.int32)
    numbers = owners([(0, 3), (4, 7)], places)
    assert numbers.tolist() == [-1, 0, 0, -1, 1, 1, -1]
    vectors = np.arange(7, dtype=np.float32)[:, None]
    assert {number: part.ravel().tolist() for number, part in by_owner(vectors, numbers).items()} == {
        0: [1, 2],
        1: [4, 5],
    }
    assert owners([], places).tolist() == [-1] * 7
    assert by_owner(vectors, owners([], places)) == {}
