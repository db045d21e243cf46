"""Which items go into the next forward pass. Pure: no thread, no clock, no tensor.

Requests take turns until the batch's token budget is full. Who is new goes first, in order of
arrival, and may fill a whole batch; after that a turn hands out at most `turn_tokens` tokens of
one request (at least one item), then the request goes to the back of the line. So a request of
10 documents is done in the next batch or two whatever else waits, and a request alone gets
whole batches.

Requests of a lower priority number have their turns first. Every fourth turn goes to the request
that has waited longest, whatever its priority and however many new ones come: none waits for ever.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

from reranker_serve.engine.job import Job, Unit
from reranker_serve.errors import Overloaded, RequestTooLarge

_RATE_SMOOTHING = 0.2
_LONGEST_RETRY_S = 600
_FAIR_TURN = 4


class _Rank(NamedTuple):
    """What is least goes first."""

    priority: int
    started: bool


class _Place(NamedTuple):
    rank: _Rank
    since_turn: int


class Scheduler:
    """The waiting line. Not thread-safe: the engine calls it under its lock."""

    def __init__(self, max_queue_tokens: int, turn_tokens: int) -> None:
        self._max_queue_tokens = max_queue_tokens
        self._turn_tokens = turn_tokens
        self._lines: dict[_Rank, OrderedDict[int, Job]] = {}
        self._places: dict[int, _Place] = {}
        self._turns = 0
        self._tokens_per_second: float | None = None
        self.queued_tokens = 0

    def admit(self, job: Job) -> None:
        """Take the whole job or refuse it, by its cost in tokens.

        Raises `RequestTooLarge` if it can never fit, `Overloaded` if it does not fit now.
        """
        cost = job.waiting_tokens
        self.check_room(cost)
        self._line_up(job, _Rank(job.priority, started=False))
        self.queued_tokens += cost

    def check_room(self, cost: int) -> None:
        """Raises what `admit` would for a job of `cost` tokens."""
        limit = self._max_queue_tokens
        if cost > limit:
            raise RequestTooLarge(
                f"the request has at least {cost} tokens, the queue holds at most {limit}:"
                " send fewer documents at a time"
            )
        excess = self.queued_tokens + cost - limit
        if excess > 0:
            retry_after = self._seconds_to_drain(excess)
            raise Overloaded(
                f"the server is overloaded: {self.queued_tokens} of {limit} queue tokens are taken;"
                f" retry in {retry_after} s",
                retry_after,
            )

    def drop(self, job: Job) -> None:
        """Forget a job's waiting items (its caller went away or has an error); idempotent."""
        if id(job) in self._places:
            self._leave(job)
            self.queued_tokens -= job.waiting_tokens

    def next_batch(self, budget: int) -> list[Unit]:
        """Up to `budget` tokens of work, in turns; one item may exceed it. Empty if idle."""
        batch: list[Unit] = []
        there: set[int] = set()
        room = budget
        while self._lines:
            job = self._next_in_turn()
            rank, waiting = self._places[id(job)].rank, job.waiting_tokens
            whole_turn = min(self._turn_tokens, budget) if rank.started else budget
            units, tokens = job.take(min(whole_turn, room), room if batch else math.inf, id(job) in there)
            if not units:
                break
            batch += units
            there.add(id(job))
            self.queued_tokens -= waiting - job.waiting_tokens
            self._turns += 1
            if not job.has_waiting:
                self._leave(job)
            # Who had less than a turn because the batch was full goes on with the next one.
            elif room >= whole_turn:
                self._leave(job)
                self._line_up(job, _Rank(job.priority, started=True))
            room -= tokens
        return batch

    def completed(self, tokens: int, seconds: float) -> None:
        """Learn the drain rate from a finished batch."""
        if seconds <= 0:
            return
        rate = tokens / seconds
        known = self._tokens_per_second
        self._tokens_per_second = rate if known is None else known + _RATE_SMOOTHING * (rate - known)

    def clear(self) -> list[Job]:
        """Empty the line and return the jobs that were in it."""
        jobs = [job for line in self._lines.values() for job in line.values()]
        self._lines.clear()
        self._places.clear()
        self.queued_tokens = 0
        return jobs

    def _next_in_turn(self) -> Job:
        if self._turns % _FAIR_TURN == _FAIR_TURN - 1:
            heads = (next(iter(line.values())) for line in self._lines.values())
            return min(heads, key=lambda job: self._places[id(job)].since_turn)
        return next(iter(self._lines[min(self._lines)].values()))

    def _line_up(self, job: Job, rank: _Rank) -> None:
        self._lines.setdefault(rank, OrderedDict())[id(job)] = job
        self._places[id(job)] = _Place(rank, self._turns)

    def _leave(self, job: Job) -> None:
        rank = self._places.pop(id(job)).rank
        line = self._lines[rank]
        del line[id(job)]
        if not line:
            del self._lines[rank]

    def _seconds_to_drain(self, tokens: int) -> int:
        if not self._tokens_per_second:
            return 1
        return min(_LONGEST_RETRY_S, max(1, math.ceil(tokens / self._tokens_per_second)))
