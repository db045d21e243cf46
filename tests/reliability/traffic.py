"""Requests as a day brings them: every dialect, all sizes, some of them wrong."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import reranker_serve
from reranker_serve.api.dialects.table import DIALECTS

_EXAMPLES = Path(reranker_serve.__file__).parent / "api" / "examples"
_WORDS = ["how", "do", "plants", "make", "food", "the", "stock", "market", "fell", "sunlight", "sugar", "blue", "whale"]
_LISTS = {"documents", "texts", "passages", "input", "inputs", "text_1", "text_2"}
_NAMES = {"query", "queries", "text", "title", "body"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. `kind` says what is wrong with it, and `statuses` what it may be answered with."""

    kind: str
    path: str
    content: bytes
    statuses: frozenset[int]


@cache
def examples() -> list[tuple[str, dict[str, Any]]]:
    """A path and a body of every documented request of every dialect."""
    return [
        (dialect.paths[0].replace("{model:path}", "m"), body)
        for dialect in DIALECTS
        for body in json.loads((_EXAMPLES / f"{dialect.name}.json").read_text())["requests"].values()
    ]


def sample(chance: random.Random, most_documents: int, too_large: int) -> Sample:
    """Four in five requests are right; `too_large` is the size of a body that is refused."""
    path, example = chance.choice(examples())
    body = _varied(example, chance, max(1, int(most_documents ** chance.random())))
    kind = chance.choices(["good", "gone", "malformed", "incomplete", "key", "large"], [80, 8, 3, 3, 3, 3])[0]
    content = json.dumps(body).encode()
    if kind == "malformed":
        return Sample(kind, path, content[: chance.randrange(1, len(content))], frozenset({400}))
    if kind == "incomplete":
        rest = {name: value for name, value in body.items() if name not in _LISTS | {"query", "queries"}}
        return Sample(kind, path, json.dumps(rest).encode(), frozenset({400, 422}))
    if kind == "key":
        return Sample(kind, path, content, frozenset({401}))
    if kind == "large":
        return Sample(kind, path, content.ljust(too_large), frozenset({413}))
    return Sample(kind, path, content, frozenset({200}))


def _varied(value: Any, chance: random.Random, count: int, name: str = "") -> Any:
    """The example with texts nobody sent before, and `count` documents."""
    if isinstance(value, dict):
        return {key: _varied(part, chance, count, key) for key, part in value.items()}
    if isinstance(value, list) and name in _LISTS:
        pair = name == "inputs" and isinstance(value[0], str)
        return [_varied(value[i % len(value)], chance, count, "text") for i in range(len(value) if pair else count)]
    if isinstance(value, list) and name == "text":  # a pair of query and document
        return [_varied(part, chance, count, "text") for part in value]
    if isinstance(value, str) and name in _NAMES:
        words = chance.choices(_WORDS, k=int(100 ** chance.random()))
        return f"{value} {chance.randrange(10**9)} {' '.join(words)}"
    return value
