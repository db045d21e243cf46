"""Which tokens of a long document are read: tables for the pure part, then through real tokenizers."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.families.bi_encoder import BiEncoder, EmbeddingConfig
from reranker_serve.families.cross_encoder import CrossEncoder
from reranker_serve.families.cut import framed_pieces, pieces
from reranker_serve.families.prompts import QWEN3_RERANKER
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.families.yes_no import YesNo
from reranker_serve.types import WHOLE, Cut, Encoded, Family
from tests.checkpoints import WORDS, qwen, wordpiece

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


QUERY = "how do plants make food"
LONG = " ".join(random.Random(7).choices(WORDS, k=96))


def cross_encoder(folder: Path) -> Family:
    wordpiece().save_pretrained(folder)
    return CrossEncoder(TextEncoder(folder), 64)


def bi_encoder(folder: Path) -> Family:
    wordpiece().save_pretrained(folder)
    config = EmbeddingConfig("mean", "how: ", "the food: ", lowercase=True, max_length=None)
    return BiEncoder(TextEncoder(folder), config, 8, 64)


def yes_no(folder: Path) -> Family:
    qwen().save_pretrained(folder)
    return YesNo(folder, QWEN3_RERANKER, 400)


FAMILIES = {"cross-encoder": cross_encoder, "bi-encoder": bi_encoder, "yes-no": yes_no}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Family:
    return FAMILIES[request.param](tmp_path)


def documents_of(
    family: Family, texts: list[str], max_length: int, cut: Cut = WHOLE
) -> tuple[Encoded, list[list[int]]]:
    """What was encoded, and the ids of each document's items."""
    encoded = family.encode(QUERY, texts, max_length=max_length, instruction=None, cut=cut)
    items = encoded.items[1:] if family.name == "bi_encoder" else encoded.items
    return encoded, [item.ids.tolist() for item in items]


def tight(family: Family) -> int:
    """A limit that leaves room for about 16 tokens of a document."""
    whole = family.encode(QUERY, ["sun"], max_length=family.max_length_bounds[1], instruction=None).items[-1]
    return len(whole) + (0 if whole.prefix is None else len(whole.prefix)) + 15


def test_chunks_cover_the_document_each_in_the_whole_template(family: Family) -> None:
    limit = tight(family)
    encoded, chunked = documents_of(family, ["sun", LONG], limit, Cut(chunks=99, overlap=0))
    _, plain = documents_of(family, ["sun", LONG], limit)
    assert encoded.chunks is not None
    assert encoded.chunks[0] == 1
    assert encoded.chunks[1] == len(chunked) - 1 > 3
    assert encoded.truncated == (False, False)
    assert chunked[:2] == plain, "the first chunk is what would be read without chunks"
    # What is around the text is the same in every chunk; together they are the whole text.
    common_head = common_prefix(chunked[1:])
    common_tail = common_prefix([ids[::-1] for ids in chunked[1:]])
    _, whole = documents_of(family, [LONG], family.max_length_bounds[1], Cut(chunks=99, overlap=0))
    assert len(common_head) + len(common_tail) < len(chunked[1])
    assert sum(len(ids) for ids in chunked[1:]) >= len(whole[0])


def common_prefix(lists: list[list[int]]) -> list[int]:
    return [group[0] for group in itertools.takewhile(lambda group: len(set(group)) == 1, zip(*lists, strict=False))]


def test_left_reads_the_end_in_the_same_template(family: Family) -> None:
    limit = tight(family)
    words = LONG.split()
    _, right = documents_of(family, [LONG], limit)
    encoded, left = documents_of(family, [LONG], limit, Cut(side="left"))
    assert encoded.truncated == (True,)
    assert len(left[0]) == len(right[0])
    _, end = documents_of(family, [" ".join(words[-3:])], limit)
    tail = end[0][-3:]
    assert left[0][-3:] == tail
    assert left[0] != right[0]
    # A text that fits is read the same from both sides.
    assert (
        documents_of(family, ["sun light"], limit, Cut(side="left"))[1] == documents_of(family, ["sun light"], limit)[1]
    )


def test_document_and_query_tokens_are_counted_without_template(family: Family) -> None:
    longest = family.max_length_bounds[1]
    encoded, ids = documents_of(family, ["sun light water sugar"], longest, Cut(document_tokens=2))
    _, short = documents_of(family, ["sun light"], longest)
    assert encoded.truncated == (True,)
    if family.name != "yes_no":  # there a blank begins a document: a token of its own
        assert ids == short
    assert not family.encode(QUERY, ["sun"], max_length=longest, instruction=None).query_truncated
    cut = family.encode(QUERY, ["sun"], max_length=longest, instruction=None, cut=Cut(query_tokens=2))
    assert cut.query_truncated


def test_tokens_of_a_text_for_callers_who_count_them(family: Family) -> None:
    text = "Sun light"
    plain = family.tokens(text, special=False)
    assert "".join(text[token.start : token.stop] for token in plain).replace(" ", "").lower() == "sunlight"
    assert not any(token.special for token in plain)
    full = family.tokens(text, special=True)
    assert [token for token in full if not token.special] == plain
    if family.name != "yes_no":
        assert [token.text for token in full if token.special] == ["[CLS]", "[SEP]"]
