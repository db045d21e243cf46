"""Text to token ids, treating all text as data.

Queries and documents come from strangers: `</s>` or `[SEP]` inside one must not end a
sequence. So text is encoded by the checkpoint's tokenizer without its control tokens, and the
ids of the template (`<s> ... </s></s> ... </s>`) are put around it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from reranker_serve.errors import ModelError
from reranker_serve.types import EncodedItem, Token, TokenArray

# Text is first cut to this many characters a token: tokenizing 10 MB to keep 500 tokens would
# be a way to stop the server. Where that yields too few tokens the slice grows.
_CHARACTERS_PER_TOKEN = 32
# Ids close to the end of a slice may depend on the text behind it: a WordPiece word of more than
# 100 characters is one unknown token, its beginning alone is up to 100 tokens. (Unigram may split
# a single word of more tokens than this otherwise than it would the whole: the characters kept
# are the same.)
_EDGE_TOKENS = 128
_OLDER_VOCABULARIES = ("vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True, slots=True)
class Template:
    """Ids around the texts of one sequence: `head first middle second tail`, and where type 1 begins."""

    head: tuple[int, ...]
    middle: tuple[int, ...]
    tail: tuple[int, ...]
    second_type_from_middle: bool = False

    @property
    def overhead(self) -> int:
        return len(self.head) + len(self.middle) + len(self.tail)


class TextEncoder:
    """A checkpoint's tokenizer, for untrusted text. Safe to use from several threads.

    `vocabulary`: how many ids the model knows, if that is known.
    """

    def __init__(self, folder: Path, vocabulary: int | None = None) -> None:
        self._plain = _build(folder, without_control_tokens)
        largest = max(self._plain.get_vocab(with_added_tokens=False).values(), default=0)
        if vocabulary is not None and largest >= vocabulary:
            raise ModelError(
                f"the tokenizer in {folder} has ids up to {largest}, but the model knows {vocabulary}:"
                " it belongs to another model"
            )
        if not self._plain.encode("a", add_special_tokens=False).ids:
            raise ModelError(f"the tokenizer in {folder} gives no tokens for a letter: its vocabulary is not complete")
        self.single = _single_template(self._plain)
        self.pair = _pair_template(self._plain)

    def encode(self, texts: Sequence[str], limit: int) -> list[TokenArray]:
        """Ids of each text without template, [length]; of a long text at least `limit + 1`.

        More than `limit` ids tell the caller that the text is longer than it may keep.
        """
        size = (limit + 1) * _CHARACTERS_PER_TOKEN
        encoded = [_ids(encoding.ids) for encoding in self._batch([text[:size] for text in texts])]
        for index, text in enumerate(texts):
            width = size
            while width < len(text) and len(encoded[index]) <= limit + _EDGE_TOKENS:
                width *= 2
                encoded[index] = _ids(self._batch([text[:width]])[0].ids)
        return encoded

    def encode_end(self, text: str, limit: int) -> TokenArray:
        """Ids of the end of a text: all of them, or more than `limit`."""
        width = (limit + 1) * _CHARACTERS_PER_TOKEN
        ids = _ids(self._batch([text[-width:]])[0].ids)
        while width < len(text) and len(ids) <= limit + _EDGE_TOKENS:
            width *= 2
            ids = _ids(self._batch([text[-width:]])[0].ids)
        return ids

    def decode(self, ids: TokenArray) -> str:
        """The text of these ids; where they hold a part of a character stands the replacement character."""
        text: str = self._plain.decode(ids.tolist(), skip_special_tokens=False)
        return text

    def tokens(self, text: str, special: bool) -> list[Token]:
        """The tokens of a text, for callers who count them; what the template adds is `special`."""
        encoding: Any = self._plain.encode(text, add_special_tokens=special)
        parts = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
        return [
            Token(number, spelling.strip(), True, None, None)
            if added
            else Token(number, text[start:stop], False, start, stop)
            for number, spelling, (start, stop), added in parts
        ]

    def _batch(self, texts: list[str]) -> list[Any]:
        return list(self._plain.encode_batch_fast(texts, add_special_tokens=False))


def join(template: Template, first: TokenArray, second: TokenArray | None = None) -> EncodedItem:
    """Put the template around one or two texts."""
    head, middle, tail = (np.array(part, dtype=np.int32) for part in (template.head, template.middle, template.tail))
    if second is None:
        ids = np.concatenate([head, first, tail])
        return EncodedItem(ids, len(ids))
    ids = np.concatenate([head, first, middle, second, tail])
    boundary = len(head) + len(first) + len(middle)
    return EncodedItem(ids, boundary if template.second_type_from_middle else len(ids))


def encode_with_control_tokens(folder: Path, texts: Sequence[str]) -> list[TokenArray]:
    """Ids of each text with control tokens recognized: for templates, never for a caller's text."""
    return [
        _ids(encoding.ids) for encoding in full_tokenizer(folder).encode_batch(list(texts), add_special_tokens=False)
    ]


def full_tokenizer(folder: Path) -> Tokenizer:
    """The checkpoint's tokenizer, control tokens recognized: for what a checkpoint names, never for a caller's text."""
    return _build(folder, lambda description: description | {"truncation": None, "padding": None})


def without_control_tokens(description: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that encodes every control token's spelling as the plain characters it is.

    Added tokens made of whitespace alone stay: they are how ModernBERT spells indentation.
    The template stays too; it puts its tokens in by id, and only where it is asked for.
    """
    added = description.get("added_tokens") or []
    control = [token for token in added if token["content"].replace("\u2581", " ").strip()]
    plain = description | {"added_tokens": [token for token in added if token not in control]}
    _hide(plain["model"], {token["id"]: token["content"] for token in control})
    return plain | {"truncation": None, "padding": None}


def _ids(ids: list[int]) -> TokenArray:
    return np.array(ids, dtype=np.int32)


def _hide(model: dict[str, Any], control: dict[int, str]) -> None:
    """Respell control tokens in the vocabulary so that no text can match them.

    A Unigram vocabulary holds `</s>` as an ordinary piece, with a score that beats its
    characters. Every pre-tokenizer in use removes or replaces the blank, so a piece that
    holds one is out of reach. The ids stay as they are.
    """
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):
        for index, spelling in control.items():
            if index < len(vocabulary) and vocabulary[index][0] == spelling:
                vocabulary[index][0] = f" {spelling}"
    elif isinstance(vocabulary, dict):
        for index, spelling in control.items():
            # WordPiece and BPE look their unknown token up by its spelling.
            if vocabulary.get(spelling) == index and spelling != model.get("unk_token"):
                vocabulary[f" {spelling}"] = vocabulary.pop(spelling)


def _build(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(change(json.loads(_description(folder)))))
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        reason = str(error).strip().splitlines()[:1]
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {' '.join(reason)}") from None


def _description(folder: Path) -> str:
    path = folder / "tokenizer.json"
    if path.exists():
        return path.read_text(encoding="utf-8")
    # transformers would build a tokenizer that knows nothing.
    if not any(path for pattern in _OLDER_VOCABULARIES for path in folder.glob(pattern)):
        raise ModelError(f"{folder} has no tokenizer: tokenizer.json is missing; download the model again")
    # Converts the older formats.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(f"the tokenizer in {folder} has no fast version: add its tokenizer.json")
    description: str = backend.to_str()
    return description


def _pair_template(tokenizer: Tokenizer) -> Template:
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


def _single_template(tokenizer: Tokenizer) -> Template:
    encoding: Any = tokenizer.encode("a")
    kinds = encoding.sequence_ids
    first = kinds.index(0)
    tail_at = len(kinds) - next(i for i, kind in enumerate(reversed(kinds)) if kind == 0)
    return Template(head=tuple(encoding.ids[:first]), middle=(), tail=tuple(encoding.ids[tail_at:]))
