"""From the words that a late interaction model's folder names to the ids its tokenizer has for them."""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.late_config import Declared, DeclaredSide
from reranker_serve.families.late_interaction import Expansion, LateInteractionConfig, Side
from reranker_serve.families.tokenizer import TextEncoder

# The names of the mask where no configuration of the tokenizer tells it.
_MASKS = ("[MASK]", "<mask>")


def read_encoder(checkpoint: Checkpoint, declared: Declared, trusted: bool) -> TextEncoder:
    """The folder's tokenizer. Raises `ModelError`."""
    sides = (declared.query, declared.document)
    encoder = TextEncoder(
        checkpoint.folder,
        checkpoint.vocabulary,
        own=[side.prompt for side in sides if side.marker is None],
        control=[token for side in sides for token in _spellings(side.marker or "")],
        lowercase=declared.lowercase,
        trusted=trusted,
    )
    if encoder.truncation_side == "left":
        raise ModelError(
            f"{checkpoint.folder / 'tokenizer_config.json'}: truncation_side is left, which would take the marker of a"
            " late interaction model: it is not supported; set it to right, and long texts lose their end"
        )
    if declared.expansion is not None and checkpoint.read_object("tokenizer_config.json").get("padding_side") == "left":
        raise ModelError(
            f"{checkpoint.folder / 'tokenizer_config.json'}: padding_side is left, where the filling of a query would"
            " stand before it: it is not supported"
        )
    return encoder


def resolve(checkpoint: Checkpoint, encoder: TextEncoder, declared: Declared, longest: int) -> LateInteractionConfig:
    """For texts of at most `longest` tokens. Raises `ModelError` with one line for a word that is no token."""
    otherwise = min(longest, declared.max_length or longest)
    query, document = declared.query.length or otherwise, declared.document.length or otherwise
    expansion = None
    if declared.expansion is not None:
        wanted = declared.expansion
        token = wanted.token or _expansion_token(checkpoint, encoder)
        filling = encoder.id_of(token)
        if filling is None:
            raise ModelError(f"{declared.expansion_file}: query_expansion fills up with {token!r}, which is no token")
        query = wanted.length if wanted.fixed else max(query, wanted.length)
        expansion = Expansion(filling, min(wanted.length, longest), wanted.attended)
    return LateInteractionConfig(
        _side(encoder, declared.query, min(query, longest)),
        _side(encoder, declared.document, min(document, longest)),
        expansion,
        declared.mean,
        declared.readout,
    )


def _side(encoder: TextEncoder, declared: DeclaredSide, length: int) -> Side:
    marker, prompt = _marker(encoder, declared)
    # The last blank of a prompt becomes one token with the word that follows.
    head = len(encoder.encode([prompt.rstrip()], len(prompt))[0])
    if length <= encoder.single.overhead + len(marker) + head:
        raise ModelError(f"{declared.file}: {declared.key} leaves no room for text in {length} tokens")
    known = (encoder.id_of(word) for word in declared.skipped)
    skipped = frozenset(index for index in known if index is not None)
    if skipped.intersection(encoder.single.head):
        raise ModelError(f"{declared.file}: skiplist_words skip a token that every text begins with")
    return Side(marker, prompt, head, length, skipped)


def _marker(encoder: TextEncoder, declared: DeclaredSide) -> tuple[tuple[int, ...], str]:
    """Its id, if there is one, and the rest of the prompt, in which control tokens are meant."""
    if declared.marker is None:
        return (), encoder.own(declared.prompt)
    for token in _spellings(declared.marker):
        index = encoder.id_of(token)
        if index is not None and declared.prompt.startswith(token):
            return (index,), encoder.own(declared.prompt[len(token) :])
    raise ModelError(
        f"{declared.file}: {declared.key} is {declared.marker!r}, which is no token of the tokenizer: it is another"
        " model's"
    )


def _spellings(marker: str) -> tuple[str, ...]:
    """The token that a marker with its blank is, or its first word."""
    return (marker, *marker.split(None, 1)[:1])


def _expansion_token(checkpoint: Checkpoint, encoder: TextEncoder) -> str:
    """The mask, or what ends a text where there is none."""
    for name, usual in (("mask_token", _MASKS), ("eos_token", ())):
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            declared = checkpoint.read(file, {}).get(name)
            token = declared.get("content") if isinstance(declared, dict) else declared
            if isinstance(token, str):
                return token
        for token in usual:
            if encoder.id_of(token) is not None:
                return token
    path = checkpoint.folder / "tokenizer_config.json"
    raise ModelError(f"{path}: mask_token is missing, with which queries are filled up")
