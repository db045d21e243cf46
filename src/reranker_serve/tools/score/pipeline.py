"""Rows to scores, through the same service as the server's: many queries a job, and several jobs on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from reranker_serve.api.options import Options, core_request
from reranker_serve.errors import InferenceFailed, InvalidRequest, RequestTooLarge
from reranker_serve.service import Reranker
from reranker_serve.settings import Settings
from reranker_serve.tools.in_process import in_order
from reranker_serve.tools.score.rows import Outcome, Row
from reranker_serve.types import ScoreRequest

# One chunk is computed, one waits for it, and others are tokenized meanwhile.
_ON_THEIR_WAY = 4
# So many forward passes are worth a chunk: of more like ones a batch is made of sequences of like length, and after a
# kill more is computed again.
_PASSES = 8
_CHARACTERS_PER_TOKEN = 4
_TOKENS_OF_A_TEMPLATE = 4


def unlimited(settings: Settings) -> Settings:
    """Without what protects a server from its callers."""
    ever, all_there_is = 1e8, 2**48
    return settings.model_copy(
        update={
            "max_documents": all_there_is,
            "max_queue_tokens": all_there_is,
            "max_queue_seconds": ever,
            "request_timeout": ever,
        }
    )


class RowScorer:
    """Scores rows by a model; `options` are those of the API. To be used on one event loop."""

    def __init__(self, reranker: Reranker, options: Options) -> None:
        self._reranker = reranker
        self._options = options
        self._listwise = reranker.scorer.family.listwise

    async def score(self, rows: Sequence[Row]) -> list[Outcome]:
        """One a row, in their order. A row that cannot be scored tells why, and costs no other its scores.

        Raises `RequestError` where nothing can be scored any more.
        """
        found = iter(await self._halved([row for row in rows if row.texts]))
        return [next(found) if row.texts else row.problem or () for row in rows]

    async def _halved(self, rows: Sequence[Row]) -> list[Outcome]:
        """The service refuses a request as a whole: it is halved until exactly the rows at fault have no scores."""
        if not rows:
            return []
        try:
            return await self._asked(rows)
        except (InvalidRequest, RequestTooLarge, InferenceFailed) as error:
            if len(rows) == 1:
                return [str(error)]
        middle = len(rows) // 2
        return [*await self._halved(rows[:middle]), *await self._halved(rows[middle:])]

    async def _asked(self, rows: Sequence[Row]) -> list[Outcome]:
        result = await self._reranker.score(self._request(rows))
        scores = iter(in_order(result))
        return [tuple(islice(scores, len(row.texts))) for row in rows]

    def _request(self, rows: Sequence[Row]) -> ScoreRequest:
        """What rows of one query share is computed once; but each row is a list of its own to a listwise model."""
        queries: dict[object, _Asked] = {}
        position = 0
        for number, row in enumerate(rows):
            asked = queries.setdefault(number if self._listwise else row.query, _Asked(row.query))
            asked.texts += row.texts
            asked.positions += range(position, position + len(row.texts))
            position += len(row.texts)
        return ScoreRequest(
            tuple(core_request(self._options, each.query, tuple(each.texts)) for each in queries.values()),
            tuple(tuple(each.positions) for each in queries.values()),
        )


@dataclass(slots=True)
class _Asked:
    query: str
    texts: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that are scored together; `share` tells how much of the file is read with them."""

    rows: list[Row]
    share: float


def chunks(rows: Iterator[tuple[Row, float]], token_budget: int, max_length: int) -> Iterator[Chunk]:
    """As many rows at a time as make a few forward passes of `token_budget` tokens."""
    own: list[Row] = []
    room = budget = _PASSES * token_budget
    share = 0.0
    for row, share in rows:
        own.append(row)
        room -= _tokens(row, max_length)
        if room <= 0:
            yield Chunk(own, share)
            own, room = [], budget
    if own:
        yield Chunk(own, share)


def _tokens(row: Row, max_length: int) -> int:
    """About so many; one at least, so that no chunk is without end."""
    query = len(row.query)
    lengths = (_TOKENS_OF_A_TEMPLATE + (query + len(text)) // _CHARACTERS_PER_TOKEN for text in row.texts)
    return 1 + sum(min(max_length, length) for length in lengths)


async def score_all(
    chunks: Iterator[Chunk], scorer: RowScorer, done: Callable[[Chunk, Sequence[Outcome]], None]
) -> None:
    """Hands each chunk to `done` with its outcomes, in their order, on a thread; reads on another as fast as it scores.

    Raises what reading, scoring and `done` raise, when what came before is done.
    """
    waiting: deque[tuple[Chunk, asyncio.Task[list[Outcome]]]] = deque()
    failure: Exception | None = None
    more = True
    try:
        while more or waiting:
            while more and len(waiting) < _ON_THEIR_WAY:
                try:
                    chunk = await asyncio.to_thread(next, chunks, None)
                except Exception as error:  # the file's end as far as it can be read
                    chunk, failure = None, error
                more = chunk is not None
                if chunk is not None:
                    waiting.append((chunk, asyncio.create_task(scorer.score(chunk.rows))))
            if waiting:
                chunk, task = waiting.popleft()
                await asyncio.to_thread(done, chunk, await task)
        if failure:
            raise failure
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
