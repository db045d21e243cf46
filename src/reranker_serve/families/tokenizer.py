"""Text to token ids, treating all text as data.

Queries and documents come from strangers: `</s>` or `[SEP]` inside one must not end a
sequence. So control tokens get a secret spelling, other in every process, that no stranger can
write; the ids of the template (`<s> ... </s></s> ... </s>`) are put around a text here.

What a control token is: every added token that is marked special, that is named as one
(`sep_token` and its kin), that the tokenizer's own template puts in, that is spelled `<|so|>`, or
that the prompt of a language model is made of (`<think>` is not marked in Qwen3). All other added
tokens are words of the vocabulary, such as `<h1>` in Gemma, and found in texts as transformers
finds them.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, normalizers
from tokenizers.models import Unigram

from reranker_serve.errors import ModelError, reason
from reranker_serve.families.agreement import require_agreement
from reranker_serve.families.native_tokenizer import read_published
from reranker_serve.families.template import Template, join, pair_template, single_template
from reranker_serve.types import Token, TokenArray

__all__ = ["Template", "TextEncoder", "join"]

# Text is first cut to this many characters a token: tokenizing 10 MB to keep 500 tokens would
# be a way to stop the server. Where that yields too few tokens the slice grows.
_CHARACTERS_PER_TOKEN = 32
# Ids close to the end of a slice may depend on the text behind it: a WordPiece word of more than
# 100 characters is one unknown token, its beginning alone is up to 100 tokens. (Unigram may split
# a single word of more tokens than this otherwise than it would the whole: the characters kept
# are the same.)
_EDGE_TOKENS = 128
_MODEL = '"model":{"type":'  # where the last part of a tokenizer's text begins
_BARRED = re.compile(r"<\|.+\|>", re.DOTALL)


class TextEncoder:
    """A checkpoint's tokenizer, for untrusted text. Safe to use from several threads.

    `vocabulary`: how many ids the model knows, if that is known. `own`: the model's own texts, such as prompts, in
    which control tokens are meant. `control`: tokens that only those texts may hold, see above. `lowercase` as
    sentence-transformers' `do_lower_case`. With `trusted`, control tokens are recognized in every text.

    `truncation_side` and `longest` are what tokenizer_config.json declares.
    Raises `ModelError` if the ids of any sample text differ from those of transformers.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary: int | None = None,
        *,
        own: Sequence[str] = (),
        control: Sequence[str] = (),
        lowercase: bool = False,
        trusted: bool = False,
    ) -> None:
        published = read_published(folder)
        backend: Tokenizer = published.backend_tokenizer
        if lowercase:
            rest = [backend.normalizer] if backend.normalizer is not None else []
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
        backend.no_truncation()
        backend.no_padding()
        _require_letters(backend, folder)
        self.single = single_template(backend)
        self.pair = pair_template(backend)
        if "token_type_ids" not in published.model_input_names:  # then the model has none of them, and takes all for 0
            self.pair = replace(self.pair, second_type_from_middle=False)
        self.truncation_side: Literal["left", "right"] = published.truncation_side
        self._folder = folder
        self._longest: float = published.model_max_length
        if type(self._longest) not in (int, float):
            raise _wrong_length(folder, self._longest)
        placed = (*self.single.ids, *self.pair.ids)
        hidden = frozenset() if trusted else _control_tokens(published, placed, control)
        _require_known(backend, hidden, placed, folder, vocabulary)
        self._secrets = {token: f"x{secrets.token_hex(12)}x" for token in hidden}
        self._control = re.compile("|".join(map(re.escape, sorted(hidden, key=len, reverse=True))) or r"(?!)")
        self._plain = _respelled(backend, self._secrets, folder)
        self._plain.encode_special_tokens = trusted and published.split_special_tokens
        require_agreement(self, published, own, hidden, folder)

    @property
    def longest(self) -> float:
        """`model_max_length`, in tokens of a sequence; a number beyond all texts where none is declared."""
        if self._longest < self.pair.overhead + 2:
            raise _wrong_length(self._folder, self._longest)
        return self._longest

    def own(self, text: str) -> str:
        """A text of the model's own, or the part of one that is, so spelled that its control tokens are such."""
        return self._control.sub(lambda found: self._secrets[found[0]], text)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its spelling, a control token's as well: for what a checkpoint names."""
        found: int | None = self._plain.token_to_id(self._secrets.get(token, token))
        return found

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

    def located(self, texts: Sequence[str], limit: int) -> list[tuple[TokenArray, TokenArray]]:
        """Ids of each text, as from `encode` where it is not so odd that those need more of it; and of each its last
        character in the text."""
        size = (limit + 1) * _CHARACTERS_PER_TOKEN
        found = self._plain.encode_batch([text[:size] for text in texts], add_special_tokens=False)
        return [(_ids(each.ids), np.array(each.offsets, dtype=np.int32).reshape(-1, 2)[:, 1] - 1) for each in found]

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


def _ids(ids: list[int]) -> TokenArray:
    return np.array(ids, dtype=np.int32)


def _require_letters(tokenizer: Tokenizer, folder: Path) -> None:
    try:
        ids = tokenizer.encode("a", add_special_tokens=False).ids
    except Exception:  # the tokenizers library raises bare Exception
        ids = []
    if not ids:
        raise ModelError(f"the tokenizer in {folder} gives no tokens for a letter: its vocabulary is not complete")


def _require_known(
    tokenizer: Tokenizer, control: Collection[str], template: Sequence[int], folder: Path, vocabulary: int | None
) -> None:
    """Whatever a text, the model knows its ids."""
    if vocabulary is None:
        return
    added = tokenizer.get_added_tokens_decoder().items()
    words = [index for index, token in added if token.content not in control]
    largest = max([_largest(tokenizer), *template, *words])
    if largest >= vocabulary:
        raise ModelError(
            f"the tokenizer in {folder} has ids up to {largest}, but the model knows {vocabulary}:"
            " it belongs to another model"
        )


def _largest(tokenizer: Tokenizer) -> int:
    if isinstance(tokenizer.model, Unigram):  # a list, and often a quarter of a million pieces
        return int(tokenizer.get_vocab_size(with_added_tokens=False)) - 1
    return max(tokenizer.get_vocab(with_added_tokens=False).values(), default=0)


def _wrong_length(folder: Path, declared: object) -> ModelError:
    return ModelError(
        f"{folder / 'tokenizer_config.json'}: model_max_length is {declared!r}, not a number of tokens that holds a"
        " pair: correct it"
    )


def _control_tokens(published: Any, template: Sequence[int], prompt: Sequence[str]) -> frozenset[str]:
    backend: Tokenizer = published.backend_tokenizer
    added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    marked = {token for token, special in added.items() if special or token in prompt or _BARRED.fullmatch(token)}
    found = marked | {backend.id_to_token(index) for index in template} | set(published.all_special_tokens)
    # Added tokens made of whitespace alone are how ModernBERT spells indentation.
    return frozenset(token for token in found if token and token.replace("\u2581", " ").strip())


def _respelled(backend: Tokenizer, spelling: Mapping[str, str], folder: Path) -> Tokenizer:
    """A tokenizer with the same ids, in which control tokens are spelled otherwise.

    Added tokens keep their order, on which their ids may depend. A Unigram vocabulary holds `</s>` as an ordinary
    piece, with a score that beats its characters, so vocabularies are respelled, too. The template puts its tokens
    in by id.
    """
    text: str = backend.to_str()
    at = text.index(_MODEL)
    description = json.loads(text[:at].rstrip(",") + "}")
    for token in description["added_tokens"]:
        token["content"] = spelling.get(token["content"], token["content"])
    try:
        return Tokenizer.from_str(f"{json.dumps(description)[:-1]}, {_respelled_model(text[at:], spelling)}")
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {reason(error)}") from None


def _respelled_model(text: str, spelling: Mapping[str, str]) -> str:
    """The model's part of a tokenizer, as the tokenizers library writes it.

    It is changed as text: to parse a large vocabulary and write it again takes half a second.
    """
    if not spelling:
        return text
    quoted = {json.dumps(token, ensure_ascii=False): json.dumps(secret) for token, secret in spelling.items()}
    tokens = "|".join(map(re.escape, quoted))
    # A key of a vocabulary, a Unigram piece, or the unknown token. No quote inside a token comes without a backslash.
    places = rf'(?<=[{{,])(?:{tokens})(?=:\d)|(?<=\[)(?:{tokens})(?=,-?\d)|(?<="unk_token":)(?:{tokens})'
    return re.sub(places, lambda found: quoted[found[0]], text)
