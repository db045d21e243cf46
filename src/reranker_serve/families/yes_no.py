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
from reranker_serve.readouts import ClassifierReadout, NextTokenReadout, Readout
from reranker_serve.types import WHOLE, Cut, Encoded, EncodedItem, FloatArray, Token, TokenArray

_LONGEST_PIECE = 10_000  # tokens
_NOTHING = np.empty(0, dtype=np.int32)
# A text, and the two pieces that it is cut into.
_JOINED = ("a\na", "a\n", "a")
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


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a document's ids; `before` is the items' prefix where it is `shared`."""

    before: TokenArray
    after: TokenArray
    shared: bool

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, ids: TokenArray) -> EncodedItem:
        if self.shared:
            own = np.concatenate([ids, self.after])
            return EncodedItem(own, len(own), self.before)
        own = np.concatenate([self.before, ids, self.after])
        return EncodedItem(own, len(own))


class YesNo:
    """Raw score = logit of one answer minus that of the other; relevance = its sigmoid.

    `readout` is that of the prompt's answers, unless the checkpoint has answers of its own, or a head that was made of
    them: then the raw score is the head's number, or of two labels the second minus the first. It is divided by
    `temperature`. `instruction` stands where a request brings none, in the place of the prompt's own.
    """

    name = "yes_no"
    listwise = False

    def __init__(
        self,
        folder: Path,
        prompt: Prompt,
        max_length: int,
        *,
        shift: float = 0.0,
        readout: Readout | None = None,
        temperature: float = 1.0,
        instruction: str | None = None,
        trusted: bool = False,
    ) -> None:
        self.prompt = prompt.name
        self.takes_instruction = prompt.takes_instruction
        self._template = prompt
        self._shift = shift
        told = instruction or prompt.instruction or ""
        own = [*(_FIELD.sub("x", piece) for piece in prompt.pieces), told]
        self._encoder = TextEncoder(folder, own=own, control=prompt.control, trusted=trusted)
        self._default_instruction = self._encoder.own(told)
        self._fixed = _read_template(self._encoder, folder, prompt)
        published = NextTokenReadout(_ids_of(prompt.answers, self._fixed))
        self.readout = readout or published
        self._weights = np.array(_weights(self.readout), dtype=np.float32) / np.float32(temperature)
        self.score_scale = _score_scale(prompt, shift, self.readout, self.readout == published)
        slots = {name: Slot.of(piece, self._encoder) for piece in prompt.pieces for name in _FIELD.findall(piece)}
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
        """One item a document or chunk, with one frame for all that fit beside the whole query.

        Only the caller's texts are cut, and only in a pair that does not fit: the query to half of
        what template and instruction leave, the document to the rest; the instruction never.
        Raises `InvalidRequest` if the instruction leaves no room.
        """
        instructed = self._encode_instruction(instruction, max_length)
        room = self._room(max_length, instructed)
        if room < 2:
            raise InvalidRequest(f"the instruction leaves no room in {max_length} tokens: shorten it", "instruction")
        if self._template.strips:
            query, documents = query.strip(), [document.strip() for document in documents]
        asked = self._encoder.encode([self._query.fill(query)], max_length)[0]
        most = len(asked) if cut.query_tokens is None else self._query.least + cut.query_tokens
        whole = self._query.cut(asked, most)
        half = self._query.cut(whole, self._query.least + room // 2)
        around_whole, around_half = (self._frame({"instruction": instructed, "query": ids}) for ids in (whole, half))
        slot, items, truncated, chunks, query_cut = self._document, [], [], [], len(whole) < len(asked)
        for ids in encode_documents(self._encoder, documents, max_length, cut, slot.fill, slot.head, len(slot.tail)):
            parts, lost = framed_pieces(ids, slot.head, slot.tail, max_length - len(around_half), cut)
            frame = around_whole
            if len(half) < len(whole) and (len(parts) > 1 or len(frame) + len(parts[0]) > max_length):
                frame, query_cut = around_half, True
            items += [frame.around(part) for part in parts]
            truncated.append(lost)
            chunks.append(len(parts))
        return Encoded(tuple(items), tuple(truncated), query_cut, tuple(chunks))

    def tokens(self, text: str, special: bool) -> list[Token]:
        return self._encoder.tokens(text, special)

    def combine(self, outputs: FloatArray) -> FloatArray:
        raw: FloatArray = (outputs * self._weights).sum(axis=1)
        return raw

    def activate(self, raw: FloatArray) -> FloatArray:
        return sigmoid((raw - np.float32(self._shift)) / np.float32(self._template.divisor))

    def _encode_instruction(self, instruction: str | None, max_length: int) -> TokenArray:
        text = instruction or self._default_instruction
        if not text or self._instruction is None:
            return _NOTHING
        return self._encoder.encode([self._instruction.fill(text)], max_length)[0]

    def _room(self, max_length: int, instruction: TokenArray) -> int:
        """Tokens left for the texts of query and document."""
        template = self._frame({"instruction": instruction, "query": _NOTHING})
        return max_length - len(template) - self._query.least - self._document.least

    def _frame(self, texts: Mapping[str, TokenArray]) -> Frame:
        def joined(pieces: Sequence[str]) -> TokenArray:
            fields = (_FIELD.search(piece) for piece in pieces)
            ids = [
                texts[field[1]] if field else self._fixed[piece] for piece, field in zip(pieces, fields, strict=True)
            ]
            return np.concatenate([_NOTHING, *ids])

        return Frame(joined(self._template.before), joined(self._template.after), self._template.shared)


def _read_template(encoder: TextEncoder, folder: Path, prompt: Prompt) -> dict[str, TokenArray]:
    """Ids of every piece without a field, and of the tokens that must be one id. Raises `ModelError`."""
    single = (*prompt.control, *prompt.answers)
    wanted = [*(piece for piece in prompt.pieces if not _FIELD.search(piece)), *single, *_JOINED]
    ids = dict(zip(wanted, encoder.encode([encoder.own(piece) for piece in wanted], _LONGEST_PIECE), strict=True))
    split = [token for token in single if len(ids[token]) != 1]
    if split:
        raise ModelError(
            f"{folder}: its tokenizer has no single token for {' and '.join(split)}, which the prompt {prompt.name}"
            " needs: these are not the files of such a reranker"
        )
    whole, first, second = (ids[text].tolist() for text in _JOINED)
    if whole != [*first, *second]:
        raise ModelError(
            f"{folder}: its tokenizer puts a blank before every text, so that the pieces of the prompt {prompt.name}"
            " cannot be tokenized apart, as they are here: it is not supported"
        )
    return ids


def _ids_of(tokens: Sequence[str], ids: Mapping[str, TokenArray]) -> tuple[int, ...]:
    return tuple(int(ids[token][0]) for token in tokens)


def _weights(readout: Readout) -> tuple[float, ...]:
    """What each number that is read counts in the raw score."""
    if readout.width == 1:
        return (1.0,)
    return (-1.0, 1.0) if isinstance(readout, ClassifierReadout) else (1.0, -1.0)


def _score_scale(prompt: Prompt, shift: float, readout: Readout, as_published: bool) -> str:
    if as_published or not isinstance(readout, NextTokenReadout):
        raw = " - ".join(f"logit '{answer}'" for answer in prompt.answers) or "the logit"
    else:
        raw = " - ".join(f"logit of token {number}" for number in readout.token_ids)
    shifted = f"raw score - {shift:g}" if shift else "raw score"
    divided = f"{shifted if not shift else f'({shifted})'} / {prompt.divisor:g}" if prompt.divisor != 1 else shifted
    return f"relevance_score = sigmoid({divided}), 0 to 1; raw score = {raw}"
