"""The table of known models says what is so, and the documentation has it."""

from __future__ import annotations

from pathlib import Path

from reranker_serve.families.registry import KINDS
from reranker_serve.tools.catalogue import KNOWN_MODELS
from tests.generated import marked
from tests.write_models_page import PAGE, WRITER, generated

ROOT = Path(__file__).parents[2]


def test_the_page_has_the_generated_table() -> None:
    assert marked(WRITER, generated()) in PAGE.read_text(), "run python -m tests.write_models_page"


def test_every_kind_is_known_by_a_model_and_every_model_is_of_a_kind() -> None:
    kinds = {kind.name for kind in KINDS}
    # No publisher has a modular language model; those who train their own do.
    assert {model.kind for model in KNOWN_MODELS} == kinds - {"modular language model"}


def test_each_model_stands_there_once_and_names_a_parity_test_that_there_is() -> None:
    names = [name for model in KNOWN_MODELS for name in model.ids]
    assert len(names) == len(set(names))
    assert all((ROOT / model.parity).is_file() for model in KNOWN_MODELS)
    assert all(("nc" in model.licence.split("-")) is not model.commercial for model in KNOWN_MODELS)
