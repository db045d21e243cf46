"""Language models that answer whether a document is relevant: Qwen3-Reranker and its kin.

The prompt comes from `prompts.py`. All of it up to the document is the same for every document
of a request: the items share it as their prefix, and it is computed once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reranker_serve.errors import InvalidRequest, ModelError, SettingsError
from reranker_serve.families.cut import encode_documents, framed_pieces
from reranker_serve.families.prompts import Prompt
from reranker_serve.families.scores import sigmoid
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.types import (
    WHOLE,
    ClassifierReadout,
    Cut,
    Encoded,
    EncodedItem,
    FloatArray,
    NextTokenReadout,
    Token,
    TokenArray,
)

_LONGEST_PIECE = 10_000  # tokens
_FIELD = re.compile(r"\{(instruction|query|document)\}")


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of the prompt with a caller's text in it: `lead` text `trail`.

    `tail` are the ids of `trail`, which stay when the text is cut. `least` counts the ids that
    are there whatever the text.
    """

    lead: str
    trail: str
    tail: TokenArray
    least: int

    @classmethod
    def of(cls, piece: str, encoder: TextEncoder) -> Slot:
        lead, _, trail = _FIELD.split(piece)
        # The last blank of the lead becomes one token with the word that follows.
        before, tail = encoder.encode([lead.rstrip(), trail], limit=len(piece))
        return cls(lead, trail, tail, len(before) + len(tail))

    def fill(self, text: str) -> str:
        return f"{self.lead}{text}{self.trail}"

    @property
    def head(self) -> int:
        """Ids of `lead` that are there whatever the text."""
        return self.least - len(self.tail)

    def cut(self, ids: TokenArray, most: int) -> TokenArray:
        """The first `most` ids, the tail among them."""
        return ids if len(ids) <= most else np.concatenate([ids[: most - len(self.tail)], self.tail])


class YesNo:
    """Raw score = logit of one answer minus that of the other; relevance = its sigmoid.

    With `classifier`, the checkpoint is a conversion whose one-row head holds that difference.
    """

    name = "yes_no"
    listwise = False

    def __init__(
        self, folder: Path, prompt: Prompt, max_length: int, shift: float, classifier: bool, trusted: bool = False
    ) -> None:
        self.prompt = prompt.name
        self.takes_instruction = prompt.takes_instruction
        self._default_instruction = prompt.instruction
        self._shift = shift
        own = [_FIELD.sub("x", piece) for piece in _pieces(prompt)]
        self._encoder = TextEncoder(folder, own=own, control=prompt.control, trusted=trusted)
        fixed = _read_template(self._encoder, folder, prompt)
        self.readout = ClassifierReadout() if classifier else NextTokenReadout(_ids_of(prompt.answers, fixed))
        self.score_scale = _score_scale(prompt, shift)
        self._before = [fixed.get(piece) for piece in prompt.before]
        self._after = np.concatenate([fixed[piece] for piece in prompt.after])
        slots = {name: Slot.of(piece, self._encoder) for piece in _pieces(prompt) for name in _FIELD.findall(piece)}
        self._order = [name for piece in prompt.before for name in _FIELD.findall(piece)]
        self._query, self._document = slots["query"], slots["document"]
        self._instruction = slots.get("instruction")
        least = max_length - self._room(max_length, self._encode_instruction(None, max_length)) + 2
        if least > max_length:
            raise SettingsError(
                f"RERANKER_MAX_LENGTH={max_length} counts the whole prompt, and {prompt.name} has {least - 2} tokens"
                f" without any text: set it to {least} or more"
            )
        self.max_length_bounds = (least, max_length)

    def encode(
        self, query: str, documents: Sequence[str], *, max_length: int, instruction: str | None, cut: Cut = WHOLE
    ) -> Encoded:
        """One item a document or chunk, with one prefix for all that fit beside the whole query.

        Only the caller's texts are cut, and only in a pair that does not fit: the query to half of
        what template and instruction leave, the document to the rest; the instruction never.
        Raises `InvalidRequest` if the instruction leaves no room.
        """
        instructed = self._encode_instruction(instruction, max_length)
        room = self._room(max_length, instructed)
        if room < 2:
            raise InvalidRequest(f"the instruction leaves no room in {max_length} tokens: shorten it", "instruction")
        asked = self._encoder.encode([self._query.fill(query)], max_length)[0]
        most = len(asked) if cut.query_tokens is None else self._query.least + cut.query_tokens
        whole = self._query.cut(asked, most)
        half = self._query.cut(whole, self._query.least + room // 2)
        beside_whole, beside_half = (self._prefix({"instruction": instructed, "query": ids}) for ids in (whole, half))
        spare = max_length - len(self._after)
        slot, items, truncated, chunks, query_cut = self._document, [], [], [], len(whole) < len(asked)
        for ids in encode_documents(self._encoder, documents, max_length, cut, slot.fill, slot.head, len(slot.tail)):
            parts, lost = framed_pieces(ids, slot.head, slot.tail, spare - len(beside_half), cut)
            prefix = beside_whole
            if len(half) < len(whole) and (len(parts) > 1 or len(beside_whole) + len(parts[0]) > spare):
                prefix, query_cut = beside_half, True
            items += [self._item(part, prefix) for part in parts]
            truncated.append(lost)
            chunks.append(len(parts))
        return Encoded(tuple(items), tuple(truncated), query_cut, tuple(chunks))

    def tokens(self, text: str, special: bool) -> list[Token]:
        return self._encoder.tokens(text, special)

    def combine(self, outputs: FloatArray) -> FloatArray:
        raw: FloatArray = outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 0] - outputs[:, 1]
        return raw

    def activate(self, raw: FloatArray) -> FloatArray:
        return sigmoid(raw - np.float32(self._shift))

    def _encode_instruction(self, instruction: str | None, max_length: int) -> TokenArray:
        text = instruction or self._default_instruction
        if not text or self._instruction is None:
            return np.empty(0, dtype=np.int32)
        return self._encoder.encode([self._instruction.fill(text)], max_length)[0]

    def _room(self, max_length: int, instruction: TokenArray) -> int:
        """Tokens left for the texts of query and document."""
        fixed = sum(len(ids) for ids in self._before if ids is not None) + len(self._after)
        return max_length - fixed - len(instruction) - self._query.least - self._document.least

    def _prefix(self, texts: Mapping[str, TokenArray]) -> TokenArray:
        fields = iter(self._order)
        return np.concatenate([ids if ids is not None else texts[next(fields)] for ids in self._before])

    def _item(self, ids: TokenArray, prefix: TokenArray) -> EncodedItem:
        own = np.concatenate([ids, self._after])
        return EncodedItem(own, len(own), prefix)


def _pieces(prompt: Prompt) -> tuple[str, ...]:
    return (*prompt.before, prompt.document, *prompt.after)


def _read_template(encoder: TextEncoder, folder: Path, prompt: Prompt) -> dict[str, TokenArray]:
    """Ids of every piece without a field, and of the tokens that must be one id. Raises `ModelError`."""
    single = (*prompt.control, *prompt.answers)
    wanted = [*(piece for piece in _pieces(prompt) if not _FIELD.search(piece)), *single]
    ids = dict(zip(wanted, encoder.encode([encoder.own(piece) for piece in wanted], _LONGEST_PIECE), strict=True))
    split = [token for token in single if len(ids[token]) != 1]
    if split:
        raise ModelError(
            f"{folder}: its tokenizer has no single token for {' and '.join(split)}, which the prompt {prompt.name}"
            " needs: these are not the files of such a reranker"
        )
    return ids


def _ids_of(tokens: Sequence[str], ids: Mapping[str, TokenArray]) -> tuple[int, ...]:
    return tuple(int(ids[token][0]) for token in tokens)


def _score_scale(prompt: Prompt, shift: float) -> str:
    raw = " - ".join(f"logit '{answer}'" for answer in prompt.answers)
    shifted = f"raw score - {shift:g}" if shift else "raw score"
    return f"relevance_score = sigmoid({shifted}), 0 to 1; raw score = {raw}"
