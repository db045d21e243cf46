"""Which tokens of a long document are read: tables for the pure part, then through real tokenizers."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.families.cut import framed_pieces, pieces
from reranker_serve.types import Cut

IDS = np.arange(20, dtype=np.int32)


def spans(ids: np.ndarray, room: int, cut: Cut) -> tuple[list[tuple[int, int]], bool]:
    """First and last id of each piece."""
    parts, lost = pieces(ids, room, cut)
    return [(int(part[0]), int(part[-1])) for part in parts], lost


@pytest.mark.parametrize(
    ("room", "cut", "expected", "lost"),
    [
        (20, Cut(), [(0, 19)], False),
        (8, Cut(), [(0, 7)], True),
        (8, Cut(side="left"), [(12, 19)], True),
        (30, Cut(document_tokens=5), [(0, 4)], True),
        (30, Cut(document_tokens=5, side="left"), [(15, 19)], True),
        (30, Cut(document_tokens=20), [(0, 19)], False),
        (8, Cut(chunks=2), [(0, 7), (7, 14)], True),
        (8, Cut(chunks=3), [(0, 7), (7, 14), (14, 19)], False),
        (8, Cut(chunks=99), [(0, 7), (7, 14), (14, 19)], False),
        (8, Cut(chunks=99, overlap=0), [(0, 7), (8, 15), (16, 19)], False),
        (8, Cut(chunks=99, overlap=4), [(0, 7), (4, 11), (8, 15), (12, 19)], False),
        (8, Cut(chunks=2, overlap=0, side="left"), [(4, 11), (12, 19)], True),
        (8, Cut(chunks=99, overlap=10**9), [(0, 7), (4, 11), (8, 15), (12, 19)], False),
        (8, Cut(chunks=99, overlap=0, document_tokens=10), [(0, 7), (8, 9)], True),
        (1, Cut(chunks=10**40), [(i, i) for i in range(20)], False),
        (20, Cut(chunks=5), [(0, 19)], False),
    ],
)
def test_the_pieces(room: int, cut: Cut, expected: list[tuple[int, int]], lost: bool) -> None:
    assert spans(IDS, room, cut) == (expected, lost)


@given(
    length=st.integers(1, 60),
    room=st.integers(1, 20),
    cut=st.builds(
        Cut,
        side=st.sampled_from(["left", "right"]),
        document_tokens=st.none() | st.integers(1, 70),
        chunks=st.integers(1, 9),
        overlap=st.none() | st.integers(0, 30),
    ),
)
def test_pieces_fit_are_not_empty_follow_each_other_and_tell_what_is_lost(length: int, room: int, cut: Cut) -> None:
    ids = np.arange(length, dtype=np.int32)
    parts, lost = pieces(ids, room, cut)
    assert 1 <= len(parts) <= cut.chunks
    assert all(1 <= len(part) <= room for part in parts)
    kept = np.unique(np.concatenate(parts))
    assert len(kept) == kept[-1] - kept[0] + 1, "no gaps"
    assert lost == (len(kept) < length)
    assert kept[0] == 0 if cut.side == "right" else kept[-1] == length - 1
    for part, following in itertools.pairwise(parts):
        assert part[0] < following[0] <= part[-1] + 1
        assert part[-1] < following[-1]


def test_head_and_tail_of_a_template_stay_in_every_piece() -> None:
    ids = np.array([90, 91, *range(10), 99], dtype=np.int32)
    tail = np.array([99], dtype=np.int32)
    parts, lost = framed_pieces(ids, 2, tail, 7, Cut(chunks=9, overlap=0))
    assert [part.tolist() for part in parts] == [
        [90, 91, 0, 1, 2, 3, 99],
        [90, 91, 4, 5, 6, 7, 99],
        [90, 91, 8, 9, 99],
    ]
    assert not lost
    parts, lost = framed_pieces(ids, 2, tail, 7, Cut(side="left"))
    assert [part.tolist() for part in parts] == [[90, 91, 6, 7, 8, 9, 99]]
    assert lost
    assert framed_pieces(ids, 2, tail, 13, Cut())[0][0].tolist() == ids.tolist()


def test_a_cut_that_asks_for_nothing_is_the_default() -> None:
    assert dataclasses.astuple(Cut()) == ("right", None, None, 1, None)
