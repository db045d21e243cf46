"""Do we make the ids that transformers makes of the same folder? Tried on sample texts before anything is served.

The one difference that is meant are control tokens in a stranger's text: no sample has one, but those of `own`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from reranker_serve.errors import ModelError, reason
from reranker_serve.families.template import Template, join
from reranker_serve.types import EncodedItem, TokenArray

Ids = list[int]

_ORDINARY = "How do plants make food?"
_SAMPLES = (
    _ORDINARY,
    "",
    " ",
    "a",
    "ALL CAPITALS, Some Of Them, iPhone",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m Stra\u00dfe \u0130stanbul \u039f\u0394\u039f\u03a3 e\u0301 o\u0308",
    "\uff26\uff55\uff4c\uff4c\u3000width, \ufb01ne, \u00bd, x\u00b2, \u2122 \u2026 \u201cquoted\u201d",
    "\u4f60\u597d\u4e16\u754c abc\u4f60\u597d \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u05e9\u05c1",
    "\U0001f469\u200d\U0001f692 fire \U0001f525, flag \U0001f1eb\U0001f1f7",
    "  two  blanks\tand\n\nlines \r\n",
    "def f(x):\n    return x < y and 3.14 >= z  # why's that?",
    "12,345.67 https://example.com/a?b=c&d=e#f someone@example.com",
    "one" * 60,
)
_LONG, _LIMIT = _ORDINARY + " Of sun, light and water, as leaves do." * 100, 40
_SECOND = "Of sun, light and water."
_PAIR = f"{_ORDINARY} / {_SECOND}"
_MOST_WORDS = 64
# Of a character: its most tokens.
_BYTES = 8
_QUOTED = 60


class Encoder(Protocol):
    """What is compared; see `TextEncoder`."""

    def encode(self, texts: Sequence[str], limit: int) -> list[TokenArray]: ...

    def own(self, text: str) -> str: ...

    @property
    def single(self) -> Template: ...

    @property
    def pair(self) -> Template: ...


def require_agreement(
    encoder: Encoder, published: Any, own: Sequence[str], control: Collection[str], folder: Path
) -> None:
    """Raise `ModelError` where ids differ from those of `published`, transformers' tokenizer of the folder."""
    try:
        different = next(filter(_differ, _compared(encoder, published, own, control)), None)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"the tokenizer in {folder} fails at ordinary text: {reason(error)}") from None
    if different is None:
        return
    text, mine, theirs = different
    shown = repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}...")
    other = "" if len(theirs) != len(mine) else " others"
    raise ModelError(
        f"{folder}: of the text {shown} transformers makes {len(theirs)} tokens and this server {len(mine)}{other}, so"
        " scores would not be the model's own: this tokenizer cannot be served; use another version of the model"
    )


def _differ(compared: tuple[str, Ids, Ids]) -> bool:
    return compared[1] != compared[2]


def _compared(
    encoder: Encoder, published: Any, own: Sequence[str], control: Collection[str]
) -> Iterator[tuple[str, Ids, Ids]]:
    """Each sample with its ids here and there."""
    forms = [token.lower() for token in control]
    texts = [
        text
        for text in (*_SAMPLES, *_with_words(published, control))
        if not any(form in text.lower() for form in forms)
    ]
    ours = encoder.encode(texts, max(map(len, texts)) * _BYTES)
    for text, ids, theirs in zip(texts, ours, _ids(published, texts), strict=True):
        yield text, ids.tolist(), theirs
    cut, whole = encoder.encode([_LONG], _LIMIT)[0].tolist(), _ids(published, [_LONG])[0]
    yield _LONG, cut[:_LIMIT], whole[:_LIMIT]
    for text in filter(None, own):
        for spelled, meant in ((encoder.own(text), text), (encoder.own(text) + _ORDINARY, text + _ORDINARY)):
            yield meant, encoder.encode([spelled], len(meant) * _BYTES)[0].tolist(), _ids(published, [meant])[0]
    first, second = encoder.encode([_ORDINARY, _SECOND], _LIMIT)
    yield from _sequences(_ORDINARY, join(encoder.single, first), published([_ORDINARY], verbose=False))
    yield from _sequences(_PAIR, join(encoder.pair, first, second), published([_ORDINARY], [_SECOND], verbose=False))


def _ids(published: Any, texts: Sequence[str]) -> list[Ids]:
    ids: list[Ids] = published(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _with_words(published: Any, control: Collection[str]) -> Iterator[str]:
    """The words that were added to the vocabulary, in texts."""
    words = [token for token in published.get_added_vocab() if token not in control]
    for word in words[:_MOST_WORDS]:
        yield f"Of {word} and({word})x{word}y"


def _sequences(text: str, item: EncodedItem, theirs: Any) -> Iterator[tuple[str, Ids, Ids]]:
    """The whole sequence, and its token types where the model has them."""
    yield text, item.ids.tolist(), theirs["input_ids"][0]
    if "token_type_ids" in theirs and item.second_segment < len(item):
        types = [0] * item.second_segment + [1] * (len(item) - item.second_segment)
        yield text, types, theirs["token_type_ids"][0]
