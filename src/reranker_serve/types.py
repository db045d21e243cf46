"""The vocabulary: every noun that crosses a module boundary, and the three contracts.

Read this file first. A *request* is one query with its documents. A *family* turns it into
*items* (token sequences) and turns the model's rows of numbers back into one raw score a
document. A *backend* runs the model over items. A *scorer* is the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reranker_serve.places import Sentences, Span, SpanOptions
from reranker_serve.readouts import Readout

FloatArray = NDArray[np.float32]
TokenArray = NDArray[np.int32]
# Of items, in their order: a row of numbers for each, [items, width], or for each the vectors read, [vectors, width].
Outputs = FloatArray | list[FloatArray]


@dataclass(frozen=True, slots=True)
class Cut:
    """What happens to texts that are too long; tokens are the caller's own, without template.

    `side` is where a document loses tokens. `chunks` above 1 cuts a long document into up to
    that many pieces that share `overlap` tokens with the one before (None: an eighth of a
    piece); the best piece's score is the document's.
    """

    side: Literal["left", "right"] = "right"
    query_tokens: int | None = None
    document_tokens: int | None = None
    chunks: int = 1
    overlap: int | None = None


WHOLE = Cut()


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """One query and the documents to score against it, as plain text.

    `top_n` None means all. `max_length` narrows the server's limit (in tokens of one
    sequence) for this request. `raw_scores` asks for the model's own scale. Without
    `truncate` a text that does not fit is an error. Of what waits, a lower `priority` is
    computed earlier. `timeout` narrows the server's, in seconds: all is done by then, or nothing. `deadline`, in
    seconds, asks for what is done by then. What is below `min_score`, on the scale of the scores that come back, or
    `min_probability` does not come back; None: as the server is set. `spans` asks for the relevant sentences of the
    documents that come back.
    """

    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    model: str | None = None
    instruction: str | None = None
    max_length: int | None = None
    raw_scores: bool = False
    truncate: bool = True
    cut: Cut = WHOLE
    priority: int = 0
    timeout: float | None = None
    deadline: float | None = None
    min_score: float | None = None
    min_probability: float | None = None
    spans: SpanOptions | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Pairs to score in their own order: `requests` have one query each, and the same options.

    `positions[i]` is where the documents of `requests[i]` stand among the pairs.
    """

    requests: tuple[RerankRequest, ...]
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A place in the ranking: `index` is the document's position in the request.

    `score` is None where the document was not read before the request's deadline. `chunks` tells in how many pieces
    it was read, `tokens` how many of its sequences were, without what all documents of a request share. `unit` is as in
    `Encoded`. `probability` is None where scores are not calibrated. `spans` are its relevant sentences, best first;
    None if they were not asked for, or not read in time.
    """

    index: int
    score: float | None
    truncated: bool
    chunks: int = 1
    unit: float = 1.0
    probability: float | None = None
    tokens: int = 0
    spans: tuple[Span, ...] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens the model read for this request; equal documents and a shared prefix are read once.

    `span_tokens` are those of them that were read to find relevant sentences; None if those were not asked for.
    """

    prompt_tokens: int
    span_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in milliseconds."""

    tokenize_ms: float
    queue_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class RerankResult:
    """The ranking, best first, ties by index, and after it what has no score; of `documents`, `scored` have one.

    `query_truncated`: the query lost tokens before some document. `left_out` counts those that are below a threshold,
    and so not in the ranking, whatever `top_n` is; None: there is no threshold.
    """

    model: str
    ranking: tuple[RankedDocument, ...]
    query_truncated: bool
    usage: Usage
    timings: Timings
    documents: int
    scored: int
    left_out: int | None = None

    @property
    def partial(self) -> bool:
        return self.scored < self.documents


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """One token sequence for the model.

    `ids` is [length]. Token types are 0 before position `second_segment` and 1 from there
    on (BERT's second sentence); a model without token types has `second_segment == length`.

    What all sequences of a request begin with is their `prefix`, [prefix length], and not part
    of `ids`. The items of a request hold the very same array, so that a backend can tell by
    identity what to compute once a batch. Only causal models have one: there a prefix does not
    depend on what follows it.

    `read`, [vectors], are the positions in `ids` whose vectors are read; None where a sequence is read as a whole. To
    the last `unseen` tokens no token attends, not even they themselves, though they attend to all before them; none
    where the model is causal.
    """

    ids: TokenArray
    second_segment: int
    prefix: TokenArray | None = None
    read: TokenArray | None = None
    unseen: int = 0

    def __len__(self) -> int:
        """Tokens of its own, the prefix not counted."""
        return len(self.ids)


def count_tokens(items: Iterable[EncodedItem]) -> int:
    """Tokens that are read for these items together: each shared prefix once."""
    own, prefixes = 0, {}
    for item in items:
        own += len(item)
        if item.prefix is not None:
            prefixes[id(item.prefix)] = len(item.prefix)
    return own + sum(prefixes.values())


@dataclass(frozen=True, slots=True)
class Encoded:
    """A query and documents as the model reads them; `truncated` has one flag a document.

    `chunks` has each document's number of items, which stand together and come last; before them may stand items of
    the query alone. `unit` is the raw score that `Family.activate` counts as one, where that depends on the query.
    `blocks`, where items hold several documents, has for each item how many of its tokens count as each document's.
    `sentences` has an entry a document where they are to be scored by the same vectors, None if that cannot be.
    """

    items: tuple[EncodedItem, ...]
    truncated: tuple[bool, ...]
    query_truncated: bool
    chunks: tuple[int, ...]
    unit: float = 1.0
    blocks: tuple[tuple[int, ...], ...] = ()
    sentences: tuple[Sentences | None, ...] = ()

    @property
    def first(self) -> int:
        """Where the documents' items begin."""
        return 0 if self.blocks else len(self.items) - sum(self.chunks)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text; `start` and `stop` count characters, None for one the model adds."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Family(Protocol):
    """Owns the pair format, truncation, activation and how outputs become scores."""

    @property
    def name(self) -> str: ...

    @property
    def readout(self) -> Readout: ...

    @property
    def score_scale(self) -> str:
        """One sentence for users: what `relevance_score` and the raw score mean."""

    @property
    def takes_instruction(self) -> bool: ...

    @property
    def listwise(self) -> bool:
        """Whether a score depends on the other documents of the request, and on their order."""

    @property
    def prompt(self) -> str | None:
        """The name of the prompt template; None for models without one."""

    @property
    def max_length_bounds(self) -> tuple[int, int]:
        """Least and greatest `max_length` a request may ask for, in tokens."""

    def encode(
        self, query: str, documents: Sequence[str], *, max_length: int, instruction: str | None, cut: Cut = WHOLE
    ) -> Encoded: ...

    def tokens(self, text: str, special: bool) -> list[Token]:
        """The tokens of a text by itself; with `special`, those the model puts around it too."""

    def combine(self, outputs: Any) -> FloatArray:
        """`Outputs` of one query's items, as the readout has them -> one raw score a document or chunk of one,
        [documents' items]. What was not computed is zeros."""

    def activate(self, raw: FloatArray) -> FloatArray:
        """Raw scores, in units of `Encoded.unit` -> relevance in [0, 1], same shape and the same order."""


@runtime_checkable
class LocatingFamily(Family, Protocol):
    """A family whose score of a document is made of vectors that stand at places of its text.

    Of the vectors of some of these places `combine` makes the score of what stands there.
    """

    def locate(
        self, encoded: Encoded, documents: Sequence[str], *, max_length: int, cut: Cut
    ) -> list[TokenArray | None]:
        """For each document, [vectors], the last character of its text that each vector of its items stands for, one
        item after the other: -1 where it is not of the text. None where that is not known.

        The arguments are those of `encode`, and what it gave.
        """


class Backend(Protocol):
    """Owns device, dtype, padding or packing, and memory. Used by one thread at a time."""

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def attention(self) -> str:
        """How sequences share a forward pass: `packed` or `padded`, and by which kernel."""

    @property
    def batch_token_cap(self) -> int | None:
        """Most tokens worth putting in one forward pass on this device; None for no cap."""

    def forward(self, items: Sequence[EncodedItem]) -> Outputs:
        """Run the model: in the order given, a row of `readout.width` numbers an item, [items, width], or for a
        `VectorsReadout` a list with the vectors of each, [its positions that are read, width].

        Raises `OutOfMemory` when fewer items might fit, `BackendLost` when nothing will.
        """


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What was loaded, for `/info` and the logs.

    `precision_note` says why the precision is not the one that would be chosen first.
    """

    name: str
    revision: str
    architecture: str
    precision_note: str | None = None


@dataclass(frozen=True, slots=True)
class Scorer:
    """A loaded model: who encodes and reads, who computes, and what it is.

    Each of `backends` computes on a lane of its own; they are alike in precision and attention, so that no score
    depends on the lane. `warm_ups` has for each the tokens of one forward pass, and the seconds that it took; empty if
    none was made.
    """

    info: ModelInfo
    family: Family
    backends: tuple[Backend, ...]
    warm_ups: tuple[tuple[int, float], ...] = ()

    @property
    def backend(self) -> Backend:
        """One of them, for what is the same of all."""
        return self.backends[0]

    @property
    def device(self) -> str:
        """All devices, like `cuda:0,cuda:2`."""
        return ",".join(dict.fromkeys(backend.device for backend in self.backends))
