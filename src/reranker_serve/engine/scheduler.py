"""Which items go into the next forward pass. Pure: no thread, no clock, no tensor.

Whoever asks for little waits little: of two requests the one goes first that came earlier, counting for each ten times
what is left of it to compute. So ten documents are done in the next batch or two whatever else waits; a request that
was begun is finished before one like it, and none is begun, left, and given up when its time is over; and a large one
is passed by others only for so long. Requests of a lower priority number go before all others.

Where that would make a request late that can still be in time, those due by then go first, in the order of their due
times (`Admission.pressing` tells). As every request is due at some time, none waits for ever.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from reranker_serve.engine.job import Job, Unit
from reranker_serve.engine.pace import Paces

# Chosen with `benchmarks/scheduling.py`: at 5 the median request of mixed sizes waits four times as long at twice the
# load; without bound (strictly shortest first) the longer ones of like requests are late.
_PATIENCE = 10

# Places are taken anew when the machine's speed has changed by so much.
_PACE_TOLERANCE = 0.1
# Of a pass that finishes a request which it began, as whoever asks for ten documents does not want to wait for a pass
# full of somebody else's thousand. Those that fit whole may fill it.
_LEFT_FREE = 0.5

# Places out of date that are kept beside those in use: a request given up must not stay in memory.
_MOST_OUTDATED = 64


class _Place(NamedTuple):
    """What is least goes first; out of date when the job has left, or has less to do than `tokens`."""

    priority: int
    turn: float
    arrival: int
    tokens: int
    job: Job


class Scheduler:
    """The waiting line. Not thread-safe: the engine calls it under its lock."""

    def __init__(self, pace: Paces) -> None:
        self._pace = pace
        self._seconds_per_token = pace.seconds(1)
        self._arrivals = count()
        self._jobs: dict[Job, int] = {}  # and their arrivals
        self._places: list[_Place] = []  # a heap
        self.queued_tokens = 0

    def add(self, job: Job) -> None:
        """Take an admitted job."""
        self._jobs[job] = next(self._arrivals)
        self.queued_tokens += job.waiting_tokens
        heapq.heappush(self._places, self._place(job))

    def drop(self, job: Job) -> None:
        """Forget a job's waiting items (its caller went away or has an error), for good; idempotent."""
        job.given_up = True
        if self._jobs.pop(job, None) is None:
            return
        self.queued_tokens -= job.waiting_tokens
        self._tidy()

    def put_back(self, job: Job, positions: Sequence[int]) -> None:
        """Items of it that were taken wait again, before its others; not of a job that was dropped."""
        if job.given_up:
            return
        before = job.waiting_tokens
        job.put_back(positions)
        self.queued_tokens += job.waiting_tokens - before
        # A number of its own, as a place of before may have all else in common with this one.
        self._jobs[job] = next(self._arrivals)
        heapq.heappush(self._places, self._place(job))

    def next_batch(self, budget: float, now: float = 0.0, pressing: float = -math.inf, lane: int = 0) -> list[Unit]:
        """Up to `budget` tokens of work for a lane; one item may exceed it. Empty if idle.

        Jobs that are due at `pressing` or before go first. A suspect one is alone in its batch: if it is why devices
        are lost, that is nobody else's loss.
        """
        batch: list[Unit] = []
        there: set[int] = set()
        self._follow_pace()
        urgent = self._due_by(pressing)
        room, quick = budget, False
        while room > 0 and (job := urgent.pop() if urgent else self._first()):
            if batch and (job.suspect or batch[0].job.suspect):
                break
            waiting, begun = job.waiting_tokens, job.begun
            if not job.promise.firm:
                room = min(room, self._in_time(job.promise.due - now, lane))
            turn = room - budget * _LEFT_FREE if quick and waiting > room else room
            if turn <= 0:
                break
            units, tokens = job.take(turn, room if batch else math.inf, there)
            if not units:
                break
            batch += units
            room -= tokens
            self.queued_tokens -= waiting - job.waiting_tokens
            if not job.has_waiting:
                del self._jobs[job]
                quick |= not begun
            elif job.promise.due <= pressing:
                heapq.heappush(self._places, self._place(job))  # it was not the first one, whose place is renewed
        self._tidy()
        return batch

    def clear(self) -> list[Job]:
        """Empty the line and return the jobs that were in it."""
        jobs = list(self._jobs)
        for job in jobs:
            job.given_up = True
        self._jobs.clear()
        self._places.clear()
        self.queued_tokens = 0
        return jobs

    def _due_by(self, time: float) -> list[Job]:
        """Jobs that are promised until then; the last one is due first."""
        if time == -math.inf:
            return []
        due = [job for job in self._jobs if job.promise.firm and job.promise.due <= time]
        return sorted(due, key=lambda job: -job.promise.due)

    def _in_time(self, left: float, lane: int) -> float:
        """Tokens of a pass for somebody who takes what there is when the time is over: the next one is to fit, too."""
        tokens = self._pace.tokens(left / 2, lane)
        return math.inf if tokens is None else max(1.0, tokens)

    def _first(self) -> Job | None:
        while self._places:
            place = self._places[0]
            waits = place.job in self._jobs
            if waits and place.tokens == place.job.waiting_tokens:
                return place.job
            heapq.heappop(self._places)
            if waits:
                heapq.heappush(self._places, self._place(place.job))
        return None

    def _follow_pace(self) -> None:
        """Places that were taken at another pace do not compare: of requests alike the later one might go first."""
        pace = self._pace.seconds(1)
        if abs(pace - self._seconds_per_token) > _PACE_TOLERANCE * self._seconds_per_token:
            self._seconds_per_token = pace
            self._line_up()

    def _tidy(self) -> None:
        if len(self._places) > 2 * len(self._jobs) + _MOST_OUTDATED:
            self._line_up()

    def _line_up(self) -> None:
        self._places = [self._place(job) for job in self._jobs]
        heapq.heapify(self._places)

    def _place(self, job: Job) -> _Place:
        turn = job.submitted_at + _PATIENCE * self._seconds_per_token * job.waiting_tokens
        return _Place(job.promise.priority, turn, self._jobs[job], job.waiting_tokens, job)
