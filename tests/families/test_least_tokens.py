"""No document costs less than one without text: what a request is refused by before it is tokenized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reranker_serve.encoding import _least_tokens
from reranker_serve.types import WHOLE, Cut, Family
from tests.families.test_cut import FAMILIES

TEXTS = ["", " ", "a", "-", ".", ":", "\n", "  \t", "\u200b", "\u4f60", "how", "how do plants make food " * 9]


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("cut", [WHOLE, Cut(side="left"), Cut(chunks=3), Cut(query_tokens=1, document_tokens=1)])
def test_no_document_costs_less_than_an_empty_one(build: Callable[[Path], Family], cut: Cut, tmp_path: Path) -> None:
    family = build(tmp_path)
    least = _least_tokens(family)
    assert least >= 1
    for max_length in (family.max_length_bounds[0], family.max_length_bounds[1]):
        for query in TEXTS:
            encoded = family.encode(query, TEXTS, max_length=max_length, instruction=None, cut=cut)
            assert min(map(len, encoded.items[encoded.first :])) >= min(least, max_length)
