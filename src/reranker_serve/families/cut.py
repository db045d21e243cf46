"""Which tokens of a document the model reads when it does not fit: one end, or overlapping pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.types import Cut, TokenArray

_OVERLAP_SHARE = 8


def encode_documents(
    encoder: TextEncoder,
    texts: Sequence[str],
    room: int,
    cut: Cut,
    dress: Callable[[str], str] = str,
    head: int = 0,
    tail: int = 0,
) -> list[TokenArray]:
    """Ids of each text, dressed in a template of `head` and `tail` ids: enough to cut `pieces` from.

    Of a text that loses its beginning only the end is read, behind the same head.
    """
    limit = room * cut.chunks
    encoded = encoder.encode([dress(text) for text in texts], limit)
    if cut.side == "left":
        most = limit if cut.document_tokens is None else min(limit, cut.document_tokens)
        for index, ids in enumerate(encoded):
            if len(ids) > head + most + tail:
                encoded[index] = np.concatenate([ids[:head], encoder.encode_end(texts[index], limit)])
    return encoded


def pieces(ids: TokenArray, room: int, cut: Cut) -> tuple[list[TokenArray], bool]:
    """Pieces of at most `room` ids in the document's order, and whether ids were lost."""
    whole = len(ids)
    if cut.document_tokens is not None:
        ids = end(ids, cut.document_tokens, cut.side)
    if len(ids) <= room or cut.chunks == 1:
        kept = end(ids, room, cut.side)
        return [kept], len(kept) < whole
    overlap = room // _OVERLAP_SHARE if cut.overlap is None else min(cut.overlap, room // 2)
    step = room - overlap
    most = room + (cut.chunks - 1) * step
    kept = end(ids, most, cut.side)
    starts = range(0, max(1, len(kept) - overlap), step)
    return [kept[start : start + room] for start in starts], len(kept) < whole


def framed_pieces(ids: TokenArray, head: int, tail: TokenArray, most: int, cut: Cut) -> tuple[list[TokenArray], bool]:
    """`pieces` of ids that begin with `head` ids of a template and may end with its `tail`: both stay."""
    if len(ids) <= most and cut.document_tokens is None:
        return [ids], False
    head = min(head, most - len(tail) - 1)
    before, body = ids[:head], ids[head:]
    if len(tail) and np.array_equal(body[-len(tail) :], tail):
        body = body[: -len(tail)]
    parts, lost = pieces(body, most - head - len(tail), cut)
    return [np.concatenate([before, part, tail]) for part in parts], lost


def end(ids: TokenArray, most: int, side: str) -> TokenArray:
    """At most `most` ids: the first ones if the text loses its right side, else the last ones."""
    if len(ids) <= most:
        return ids
    return ids[:most] if side == "right" else ids[len(ids) - most :]
