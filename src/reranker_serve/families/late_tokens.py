"""From the words that a late interaction model's folder names to the ids its tokenizer has for them."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.late_config import Declared, DeclaredSide
from reranker_serve.families.late_interaction import Expansion, LateInteractionConfig, Side, lower
from reranker_serve.families.native_tokenizer import full_tokenizer
from reranker_serve.families.tokenizer import TextEncoder

# The names of the mask where no configuration of the tokenizer tells it.
_MASKS = ("[MASK]", "<mask>")
_LETTER = "a"


def resolve(checkpoint: Checkpoint, encoder: TextEncoder, declared: Declared, longest: int) -> LateInteractionConfig:
    """For texts of at most `longest` tokens. Raises `ModelError` with one line for a word that is no token."""
    names = _Names(full_tokenizer(checkpoint.folder), encoder, declared.lowercase)
    otherwise = min(longest, declared.max_length or longest)
    lengths = {"query": declared.query.length or otherwise, "document": declared.document.length or otherwise}
    expansion = None
    if declared.expansion is not None:
        wanted = declared.expansion
        token = wanted.token or _expansion_token(checkpoint, names)
        if token not in names.ids:
            raise ModelError(f"{declared.expansion_file}: query_expansion fills up with {token!r}, which is no token")
        lengths["query"] = wanted.length if wanted.fixed else max(lengths["query"], wanted.length)
        expansion = Expansion(names.ids[token], min(wanted.length, longest), wanted.attended)
    return LateInteractionConfig(
        names.side(declared.query, min(lengths["query"], longest)),
        names.side(declared.document, min(lengths["document"], longest)),
        expansion,
        declared.lowercase,
        declared.mean,
        declared.readout,
    )


class _Names:
    """A tokenizer's words; `plain` is the one that reads texts, without control tokens."""

    def __init__(self, full: Tokenizer, plain: TextEncoder, lowercase: bool) -> None:
        self.ids: dict[str, int] = full.get_vocab(with_added_tokens=True)
        self._added = {token.content for token in full.get_added_tokens_decoder().values()}
        self._full = full
        self._plain = plain
        self._lowercase = lowercase

    def side(self, declared: DeclaredSide, length: int) -> Side:
        marker = self._leading_tokens(declared) if declared.marker is None else self._marker(declared, declared.marker)
        ids = tuple(self.ids[token] for token in marker)
        least = self._plain.single.overhead + len(ids) + 1
        if length < least:
            raise ModelError(f"{declared.file}: {declared.key} leaves no room for text in {length} tokens")
        skipped = frozenset(self.ids[word] for word in declared.skipped if word in self.ids)
        if skipped.intersection(self._plain.single.head):
            raise ModelError(f"{declared.file}: skiplist_words skip a token that every text begins with")
        return Side(ids, declared.prompt[sum(map(len, marker)) :], length, skipped)

    def _marker(self, declared: DeclaredSide, marker: str) -> tuple[str, ...]:
        """The token that a marker with its blank is, or its first word."""
        for token in (marker, marker.split(None, 1)[0] if marker.split() else marker):
            if token in self.ids and declared.prompt.startswith(token):
                return (token,)
        raise ModelError(
            f"{declared.file}: {declared.key} is {marker!r}, which is no token of the tokenizer: they are not of the"
            " same model"
        )

    def _leading_tokens(self, declared: DeclaredSide) -> tuple[str, ...]:
        """The added tokens that a prompt begins with, if the tokenizer sees them there."""
        found: list[str] = []
        rest = declared.prompt
        while token := max((token for token in self._added if rest.startswith(token)), key=len, default=""):
            found.append(token)
            rest = rest[len(token) :]
        for tokens in (tuple(found), ()):
            if self._agrees(tokens, declared.prompt[sum(map(len, tokens)) :]):
                return tokens
        raise ModelError(
            f"{declared.file}: {declared.key} is {declared.prompt!r}; control tokens may stand at its beginning only"
        )

    def _agrees(self, tokens: tuple[str, ...], rest: str) -> bool:
        """Whether the tokenizer makes of a prompt what is made of it here."""
        text = lower(rest + _LETTER) if self._lowercase else rest + _LETTER
        whole: Any = self._full.encode("".join(tokens) + text, add_special_tokens=False)
        apart = self._plain.encode([text], len(text))[0].tolist()
        return bool(whole.ids == [*(self.ids[token] for token in tokens), *apart])


def _expansion_token(checkpoint: Checkpoint, names: _Names) -> str:
    """The mask, or what ends a text where there is none."""
    for name, usual in (("mask_token", _MASKS), ("eos_token", ())):
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            declared = checkpoint.read(file, {}).get(name)
            token = declared.get("content") if isinstance(declared, dict) else declared
            if isinstance(token, str):
                return token
        for token in usual:
            if token in names.ids:
                return token
    raise ModelError(
        f"{checkpoint.folder / 'tokenizer_config.json'}: mask_token is missing, with which queries are filled"
    )
