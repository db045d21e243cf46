"""Scores of pairs that were asked before, and of those being computed now.

In memory, least recently used first out. Lives on the event loop: not thread-safe, and needs
no lock. It may stand before any family whose score of a document depends on the query and
that document alone, and so not before a listwise one.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

# 128 bits: two of a billion different pairs share a key with a probability of 1e-21.
_DIGEST_BYTES = 16

Key = bytes


@dataclass(frozen=True, slots=True)
class PairScore:
    """What computing one document gave.

    `tokens` are the document's own; `shared_tokens` those that all documents of its request
    share (a prefix, or an embedding model's query), which count once a request. `unit` is as in `Encoded`.
    `sentences` are those of the document, start and stop of each one behind the other, and their raw scores; None if
    they were not scored beside it.
    """

    raw: float
    truncated: bool
    chunks: int
    tokens: int
    shared_tokens: int
    query_truncated: bool
    unit: float = 1.0
    sentences: tuple[array[int], array[float]] | None = None

    @property
    def may_be_kept(self) -> bool:
        """No failure is kept, and no score of a cut query: which document it was cut for is not known."""
        return math.isfinite(self.raw) and not self.query_truncated


# None: not computed, because the time was over.
Found = PairScore | None
Compute = Callable[[Sequence[Key]], Awaitable[Sequence[Found]]]
OnLookup = Callable[[int], None]


def _ignore(pairs: int) -> None:
    return None


def pair_keys(context: Iterable[str], query: str, documents: Iterable[str]) -> list[Key]:
    """One key a document, of everything that changes its score: `context`, query and document.

    Every part goes in with its length before it, so no two different lists of parts can
    spell the same bytes.
    """
    shared = blake2b(digest_size=_DIGEST_BYTES)
    for part in (*context, query):
        shared.update(_framed(part))
    keys = []
    for document in documents:
        digest = shared.copy()
        digest.update(_framed(document))
        keys.append(digest.digest())
    return keys


@dataclass(slots=True)
class _Flight:
    """Pairs that one request is computing; never due, if it made no promise to compute them all.

    `scores` and `cancelled` hold once `landed` is done.
    """

    pairs: int
    priority: int
    due: float
    landed: asyncio.Future[None]
    scores: Mapping[Key, PairScore] = field(default_factory=dict)
    cancelled: bool = False


class ScoreCache:
    """At most `entries` scores, of about 300 bytes each, and 12 for each sentence that was scored beside one.

    `on_hits(pairs)` and `on_misses(pairs)` are told how many pairs of an answered request were
    not computed for it, and how many are about to be.
    """

    def __init__(self, entries: int, on_hits: OnLookup = _ignore, on_misses: OnLookup = _ignore) -> None:
        self._entries = entries
        self._on_hits = on_hits
        self._on_misses = on_misses
        self._scores: OrderedDict[Key, PairScore] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}

    def __len__(self) -> int:
        return len(self._scores)

    async def get(
        self,
        keys: Sequence[Key],
        compute: Compute,
        priority: int = 0,
        due: float = math.inf,
        until: float | None = None,
    ) -> list[Found]:
        """A score for each of these distinct keys; `compute` is awaited for those nobody has.

        A pair that another request is computing is waited for, `until` a time of the event loop at most, if that
        request is `due` no later. If it is cancelled or fails, the pair is computed here. Raises what `compute` raises,
        for these pairs only.
        """
        found: dict[Key, Found] = {}
        loop = asyncio.get_running_loop()
        missing, may_wait, computed = list(keys), set(keys), 0
        while missing:
            found |= self._known(missing)
            missing = [key for key in missing if key not in found]
            waited = self._joinable(missing, may_wait, priority, due)
            mine = [key for key in missing if key not in waited]
            if mine:
                computed += len(mine)
                found |= await self._fly(mine, compute, priority, math.inf if until is not None else due)
            if waited:
                # Not awaited itself: this request's end must not cancel the other's promise.
                left = None if until is None else max(0.0, until - loop.time())
                await asyncio.wait({flight.landed for flight in waited.values()}, timeout=left)
            over = until is not None and loop.time() >= until
            for key, flight in waited.items():
                if key in flight.scores or over:
                    found[key] = flight.scores.get(key)
                elif not flight.cancelled:
                    may_wait.discard(key)
            missing = [key for key in waited if key not in found]
        self._on_hits(len(keys) - computed)
        return [found[key] for key in keys]

    def _known(self, keys: Iterable[Key]) -> dict[Key, PairScore]:
        known = {key: self._scores[key] for key in keys if key in self._scores}
        for key in known:
            self._scores.move_to_end(key)
        return known

    def _joinable(self, missing: Sequence[Key], may_wait: set[Key], priority: int, due: float) -> dict[Key, _Flight]:
        """What is worth waiting for: nothing larger, of less urgency or due later than this request itself.

        So ten documents never wait behind a thousand because they have one in common.
        """
        return {
            key: flight
            for key in missing
            if key in may_wait
            and (flight := self._flights.get(key)) is not None
            and flight.pairs <= len(missing)
            and flight.priority <= priority
            and flight.due <= due
        }

    async def _fly(self, keys: Sequence[Key], compute: Compute, priority: int, due: float) -> dict[Key, Found]:
        self._on_misses(len(keys))
        flight = _Flight(len(keys), priority, due, asyncio.get_running_loop().create_future())
        self._flights.update(dict.fromkeys(keys, flight))
        try:
            scores = dict(zip(keys, await compute(keys), strict=True))
            flight.scores = {key: score for key, score in scores.items() if score and score.may_be_kept}
            self._keep(flight.scores)
            return scores
        except asyncio.CancelledError:
            flight.cancelled = True
            raise
        finally:
            for key in keys:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.landed.set_result(None)

    def _keep(self, scores: Mapping[Key, PairScore]) -> None:
        self._scores.update(scores)
        for key in scores:
            self._scores.move_to_end(key)
        while len(self._scores) > self._entries:
            self._scores.popitem(last=False)


def _framed(part: str) -> bytes:
    # A lone surrogate is no text that can be encoded otherwise; here it only has to be told apart.
    content = part.encode("utf-8", "surrogatepass")
    return len(content).to_bytes(8, "little") + content
