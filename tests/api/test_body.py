"""Whatever bytes come in, they are JSON that can be written again, or one clear error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.api.body import parse_json
from reranker_serve.api.documents import Document, document_texts, echo
from reranker_serve.errors import InvalidRequest

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=6)  # unpaired surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True, allow_infinity=True) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


def check(raw: bytes) -> None:
    """`raw` is refused, or becomes what a reply may hold; nothing else is raised."""
    try:
        data = parse_json(raw)
    except InvalidRequest:
        return
    json.dumps(data, ensure_ascii=False, allow_nan=False).encode()


@given(raw=st.binary(max_size=30) | st.text('[]{}",:\\ud8Nae1+-.', max_size=20).map(str.encode))
def test_any_bytes_are_json_or_an_error(raw: bytes) -> None:
    check(raw)


@given(data=JSON, encoding=st.sampled_from(ENCODINGS), escaped=st.booleans())
def test_any_json_in_any_unicode_encoding_is_read_or_an_error(data: Any, encoding: str, escaped: bool) -> None:
    check(json.dumps(data, ensure_ascii=escaped).encode(encoding, "surrogatepass"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("escaped", [True, False])
def test_unpaired_surrogates_become_replacement_characters(encoding: str, escaped: bool) -> None:
    data = {"cut \ud83d": ["\udc00 x", {"whole": "\U0001f600 \u4f60"}]}
    raw = json.dumps(data, ensure_ascii=escaped).encode(encoding, "surrogatepass")
    assert parse_json(raw) == {"cut \ufffd": ["\ufffd x", {"whole": "\U0001f600 \u4f60"}]}


@pytest.mark.parametrize("raw", [b"1e999", b"-1e999", b'{"a": [1e400]}', b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_cannot_write_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="number"):
        parse_json(raw)


@pytest.mark.parametrize("depth", [101, 300, 600, 900, 5000, 100_000])
@pytest.mark.parametrize("leaf", ['""', r'"\ud83d"'])
def test_deep_nesting_is_refused_whatever_the_stack_has_left(depth: int, leaf: str) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        with pytest.raises(InvalidRequest, match="nested too deeply"):
            parse_json((opening * depth + leaf + closing * depth).encode())


@pytest.mark.parametrize(
    ("document", "rank_fields", "ranked", "echoed"),
    [
        ("plain", None, "plain", {"text": "plain"}),
        ("plain", ["title"], "plain", {"text": "plain"}),
        ({"text": "t", "id": 1}, None, "t", {"text": "t", "id": 1}),
        ({"text": "t", "id": 1}, [], "t", {"text": "t", "id": 1}),
        ({"text": "", "id": 1}, None, "", {"text": "", "id": 1}),
        ({"text": 5}, None, "5", {"text": "5"}),
        ({"title": "a", "body": "b"}, ["body", "title"], "b\na", {"title": "a", "body": "b", "text": "b\na"}),
        ({"title": "a", "body": None}, ["body", "title"], "a", {"title": "a", "body": None, "text": "a"}),
        ({"tags": ["\u4f60", 1]}, ["tags"], '["\u4f60", 1]', {"tags": ["\u4f60", 1], "text": '["\u4f60", 1]'}),
        ({"text": "t", "title": "a"}, ["title"], "a", {"text": "t", "title": "a"}),
    ],
)
def test_what_is_ranked_of_a_document_and_how_it_is_echoed(
    document: Document, rank_fields: list[str] | None, ranked: str, echoed: dict[str, Any]
) -> None:
    assert document_texts([document], rank_fields) == (ranked,)
    assert echo(document, rank_fields) == echoed


@pytest.mark.parametrize("document", [{}, {"body": "b"}, {"text": None}])
def test_a_document_without_its_text_is_named(document: Document) -> None:
    with pytest.raises(InvalidRequest, match="document 1 has no text"):
        document_texts(["a", document], None)


def test_brackets_in_text_are_not_nesting() -> None:
    assert parse_json(json.dumps({"a": ["[{" * 1000] * 3}).encode()) == {"a": ["[{" * 1000] * 3}
    wide = {"documents": [{"text": "a", "tags": [[1], [2]]}] * 500}
    assert parse_json(json.dumps(wide).encode()) == wide
