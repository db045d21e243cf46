"""The ids around texts (`<s> ... </s></s> ... </s>`), read from a tokenizer and put in by us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from reranker_serve.types import EncodedItem, TokenArray


@dataclass(frozen=True, slots=True)
class Template:
    """Ids around the texts of one sequence: `head first middle second tail`, and where type 1 begins."""

    head: tuple[int, ...]
    middle: tuple[int, ...]
    tail: tuple[int, ...]
    second_type_from_middle: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.head, *self.middle, *self.tail)

    @property
    def overhead(self) -> int:
        return len(self.ids)


def join(template: Template, first: TokenArray, second: TokenArray | None = None) -> EncodedItem:
    """Put the template around one or two texts."""
    head, middle, tail = (np.array(part, dtype=np.int32) for part in (template.head, template.middle, template.tail))
    if second is None:
        ids = np.concatenate([head, first, tail])
        return EncodedItem(ids, len(ids))
    ids = np.concatenate([head, first, middle, second, tail])
    boundary = len(head) + len(first) + len(middle)
    return EncodedItem(ids, boundary if template.second_type_from_middle else len(ids))


def pair_template(tokenizer: Tokenizer) -> Template:
    """What a tokenizer puts around two texts."""
    encoding: Any = tokenizer.encode("a", "b")
    kinds = encoding.sequence_ids
    first, second = kinds.index(0), kinds.index(1)
    middle_at = next((i for i in range(first, second) if kinds[i] is None), second)
    tail_at = len(kinds) - next(i for i, kind in enumerate(reversed(kinds)) if kind == 1)
    return Template(
        head=tuple(encoding.ids[:first]),
        middle=tuple(encoding.ids[middle_at:second]),
        tail=tuple(encoding.ids[tail_at:]),
        second_type_from_middle=encoding.type_ids[second] == 1,
    )


def single_template(tokenizer: Tokenizer) -> Template:
    """What a tokenizer puts around one text."""
    encoding: Any = tokenizer.encode("a")
    kinds = encoding.sequence_ids
    first = kinds.index(0)
    tail_at = len(kinds) - next(i for i, kind in enumerate(reversed(kinds)) if kind == 0)
    return Template(head=tuple(encoding.ids[:first]), middle=(), tail=tuple(encoding.ids[tail_at:]))
