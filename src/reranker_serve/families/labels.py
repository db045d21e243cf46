"""Which of a classifier's labels means relevance, by the names that its configuration gives them."""

from __future__ import annotations

import re

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.kinds import check_one_label

_RELEVANT = {"relevant"}
_IRRELEVANT = {"irrelevant", "notrelevant", "nonrelevant"}
_NO, _YES = {"no", "false", *_IRRELEVANT}, {"yes", "true", *_RELEVANT}
# Names that say nothing: LABEL_0 and 0, as letters only.
_NAMELESS: tuple[list[str], ...] = (["label", "label"], ["", ""], [])
# Of models of natural language inference, which tell whether one text follows from the other.
_INFERENCE = {"entailment", "notentailment", "contradiction", "neutral"}


def relevant_label(checkpoint: Checkpoint) -> int | None:
    """Which of two labels means relevance; None where there is but one label.

    Raises `ModelError` with one line for labels that do not tell: two logits by themselves may be of anything.
    """
    labels = _names(checkpoint)
    if checkpoint.labels != 2 or _INFERENCE & set(labels):
        check_one_label(checkpoint)
        return None
    _check_problem_type(checkpoint)
    for index, name in enumerate(labels):
        if name in _RELEVANT and labels[1 - index] in _IRRELEVANT:
            return index
    named = ", ".join(map(str, (checkpoint.config.get("id2label") or {}).values())) or "without names"
    raise ModelError(
        f"{checkpoint.folder}: a reranker has one label, this classifier has two ({named}), and nothing tells which of"
        " them means relevant: if it is a reranker, call them irrelevant and relevant in id2label of its config.json"
    )


def check_no_then_yes(checkpoint: Checkpoint) -> None:
    """Raises `ModelError` unless two labels mean no and yes, in this order, as language models are converted."""
    labels = _names(checkpoint)
    if labels not in _NAMELESS and not (labels[0] in _NO and labels[1] in _YES):
        named = " and ".join(map(str, checkpoint.config["id2label"].values()))
        raise ModelError(
            f"{checkpoint.folder / 'config.json'}: id2label names {named}, but of two labels of a language model the"
            " second means yes: it is no reranker of a kind that is served"
        )
    _check_problem_type(checkpoint)


def _check_problem_type(checkpoint: Checkpoint) -> None:
    declared = checkpoint.config.get("problem_type")
    if declared not in (None, "single_label_classification"):
        raise ModelError(
            f"{checkpoint.folder / 'config.json'}: problem_type is {declared!r}, but of two labels, relevant and"
            " irrelevant, one is true and the other not: it is no reranker of a kind that is served"
        )


def _names(checkpoint: Checkpoint) -> list[str]:
    """In the order of the logits, as letters only."""
    declared = checkpoint.config.get("id2label") or {}
    return [re.sub("[^a-z]", "", str(declared[key]).lower()) for key in sorted(declared, key=str)]
