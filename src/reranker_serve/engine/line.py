"""What callers and lanes share, under one lock: what waits, who has taken what of it, and how fast it is computed.

A lane that is free takes a batch. What a lane has in hand when it is lost waits again, once: of a batch that was lost
twice the items may be why. So what waits again is computed beside nothing of other requests.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from reranker_serve.engine.admission import Admission, Promise
from reranker_serve.engine.job import Job, Unit
from reranker_serve.engine.scheduler import Scheduler
from reranker_serve.errors import NotReady
from reranker_serve.types import EncodedItem, count_tokens

_STOPPING = "the server is shutting down"
# What idle lanes share is not cut into passes that take less: a pass has some milliseconds beside its tokens.
_LEAST_SECONDS = 0.01


class LaneLost(Exception):
    """The lane was given up: what it computes now, somebody else computes, too."""


@dataclass(slots=True)
class _Hand:
    """What a lane has taken and not finished; of these units, those `claimed` (by identity) are its to deliver."""

    units: list[Unit] = field(default_factory=list)
    claimed: set[int] = field(default_factory=set)
    lost: str | None = None
    running: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """What follows from the loss of a lane: `poisoned` jobs were lost before, `abandoned` ones have no lane left.

    `news`: it was not known before; `last`: no lane is left, since now.
    """

    news: bool
    last: bool
    poisoned: set[Job]
    abandoned: set[Job]


class Line:
    """Thread-safe; times are of `time.monotonic`. `on_queue(tokens)` and `on_wait(seconds)` hear of what waits."""

    def __init__(self, admission: Admission, on_queue: Callable[[int], None], on_wait: Callable[[float], None]) -> None:
        self._admission = admission
        self._pace = admission.pace
        self._scheduler = Scheduler(admission.pace)
        self._hands = [_Hand() for _ in range(len(admission.pace))]
        self._idle: set[int] = set()
        self._on_queue = on_queue
        self._on_wait = on_wait
        self._changed = threading.Condition()
        self._closing = False
        self.death: str | None = None

    # --- for callers ---

    @property
    def tokens(self) -> int:
        return self._scheduler.queued_tokens

    @property
    def seconds(self) -> float:
        with self._changed:
            return self._admission.seconds

    def takes(self, tokens: float) -> float:
        with self._changed:
            return self._admission.pace.seconds(tokens)

    @contextmanager
    def admitted(self, promise: Promise, least: int) -> Iterator[Promise]:
        with self._changed:
            self.check_open()
            self._admission.admit(promise, time.monotonic(), least)
            self._on_wait(self._admission.seconds)
        try:
            yield promise
        finally:
            with self._changed:
                self._admission.forget(promise)
                self._on_wait(self._admission.seconds)

    def add(self, items: Sequence[EncodedItem], promise: Promise) -> Job:
        now, tokens = time.monotonic(), count_tokens(items)
        with self._changed:
            self.check_open()
            self._admission.correct(promise, tokens, now)
            job = Job(items, now, promise)
            self._scheduler.add(job)
            self._on_queue(self._scheduler.queued_tokens)
            self._on_wait(self._admission.seconds)
            self._wake()
        return job

    def drop(self, job: Job) -> None:
        """Nothing of it is to be computed any more; idempotent."""
        with self._changed:
            self._scheduler.drop(job)
            self._on_queue(self._scheduler.queued_tokens)

    def lost(self, lane: int) -> str | None:
        """Why the lane computes no more, or None."""
        return self._hands[lane].lost

    def check_open(self) -> None:
        """Raise `NotReady` if nothing can be added any more."""
        if self.death is not None:
            raise NotReady(self.death, retry_after=30)
        if self._closing:
            raise NotReady(_STOPPING, retry_after=5)

    def close(self, timeout: float | None) -> None:
        """Add nothing more, and wait until all is computed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(self._at_rest, timeout)

    def abandon(self) -> set[Job]:
        """Add nothing more, and give back all jobs that may be unsettled: nothing more of them is computed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            return self._take_all()

    # --- for lanes ---

    def begin(self, lane: int) -> None:
        """The lane is going to take what waits."""
        self._hands[lane].running = True

    def end(self, lane: int) -> None:
        """The lane's thread takes nothing more."""
        with self._changed:
            hand = self._hands[lane]
            hand.running, hand.units = False, []
            self._changed.notify_all()

    def take(self, lane: int, running: Sequence[Unit]) -> list[Unit]:
        """The next batch, besides what the lane is computing; it is done with all else that it took.

        Waits for work, unless something is `running`: then nothing may come back. Without that, it means that the lane
        is at its end. Raises `LaneLost`.
        """
        hand = self._hands[lane]
        with self._changed:
            self.claim(lane, ())
            hand.units, hand.claimed = list(running), set()
            if self._closing:  # who waits for this one's batch need not any more
                self._changed.notify_all()
            while not (batch := self._next_batch(lane, running)):
                if running or self._is_over(hand):
                    return []
                self._idle.add(lane)
                self._changed.wait()
                self._idle.discard(lane)
            hand.units += batch
            self._on_queue(self._scheduler.queued_tokens)
            self._wake()
            return batch

    def claim(self, lane: int, units: Sequence[Unit]) -> None:
        """Only this lane is to deliver, or to fail, these units that it took. Raises `LaneLost`."""
        with self._changed:
            hand = self._hands[lane]
            if hand.lost is not None:
                raise LaneLost(hand.lost)
            hand.claimed.update(map(id, units))

    def computed(self, lane: int, units: Sequence[Unit], seconds: float, now: float) -> int:
        """Claim what a pass has computed in so long; returns its tokens. Raises `LaneLost`."""
        tokens = count_tokens(unit.item for unit in units)
        with self._changed:
            self.claim(lane, units)
            self._admission.learn(tokens, seconds, now, lane)
            for job in {unit.job for unit in units}:
                self._admission.reduce(job.promise, job.waiting_tokens)
            self._on_wait(self._admission.seconds)
        return tokens

    def lose(self, lane: int, reason: str, thread_ended: bool) -> Loss:
        """The lane takes nothing more, and what it has in hand waits again. `reason` is why.

        Where its thread has not ended, what it claimed is not taken from it.
        """
        with self._changed:
            hand = self._hands[lane]
            news, hand.lost = hand.lost is None, hand.lost or reason
            last = self.death is None and all(other.lost is not None for other in self._hands)
            if last:
                self.death = reason
            self._pace.lose(lane)
            abandoned = self._take_all() if last else set()
            poisoned = self._put_back(self._left(hand, thread_ended)) if self.death is None else set()
            self._changed.notify_all()
            return Loss(news, last, poisoned, abandoned)

    def ended(self, lane: int) -> bool:
        """Whether its thread takes nothing more, and does not hang."""
        return not self._hands[lane].running

    # --- under the lock ---

    def _next_batch(self, lane: int, running: Sequence[Unit]) -> list[Unit]:
        if self._hands[lane].lost is not None or any(unit.job.suspect for unit in running):
            return []
        if not (room := self._room(lane, bool(running))):
            return []
        now = time.monotonic()
        return self._scheduler.next_batch(room, now, self._admission.pressing(now), lane)

    def _room(self, lane: int, running: bool) -> float:
        """Tokens of the lane's next batch: little work is shared with other lanes that have nothing to do, so that all
        are done at once, or left to them where it would have to wait here."""
        budget, waiting = self._pace.budget(lane), self._scheduler.queued_tokens
        idle = self._idle - {lane}
        if not idle or not waiting:
            return budget
        if running:
            return budget if waiting > sum(map(self._pace.budget, idle)) else 0
        rates = {each: self._pace.rate(each) for each in (*idle, lane)}
        least = max(1.0, _LEAST_SECONDS * max(rates.values()))
        sharing = sorted(rates, key=lambda each: (-rates[each], each))[: max(1, int(waiting / least))]
        if lane not in sharing:
            return 0
        if len(sharing) == 1:
            return budget
        return min(budget, math.ceil(waiting * rates[lane] / sum(rates[each] for each in sharing)))

    def _wake(self) -> None:
        """Who is idle may have something to do."""
        if self._idle and self._scheduler.queued_tokens:
            self._changed.notify_all()

    def _is_over(self, hand: _Hand) -> bool:
        """What another lane has in hand, or is left, may come back as long as it is not computed."""
        if hand.lost is not None:
            return True
        if not self._closing or self._scheduler.queued_tokens:
            return False
        return all(unit.job.given_up for other in self._hands for unit in other.units)

    def _at_rest(self) -> bool:
        return self.death is not None or not any(hand.running and hand.lost is None for hand in self._hands)

    def _left(self, hand: _Hand, thread_ended: bool) -> list[Unit]:
        """Take from a lost lane what nobody will deliver."""
        undone = [unit for unit in hand.units if not (unit.job.settled or unit.job.has(unit.position))]
        hand.units = [] if thread_ended else [unit for unit in undone if id(unit) in hand.claimed]
        kept = set(map(id, hand.units))
        return [unit for unit in undone if id(unit) not in kept]

    def _put_back(self, units: Sequence[Unit]) -> set[Job]:
        """Let these wait again; returns the jobs of those that did before, which are given up."""
        poisoned = {unit.job for unit in units if unit.job.was_lost(unit.position)}
        for job in poisoned:
            self._scheduler.drop(job)
        jobs: dict[Job, list[int]] = {}
        for unit in units:
            jobs.setdefault(unit.job, []).append(unit.position)
        for job, positions in jobs.items():
            self._scheduler.put_back(job, positions)
            self._admission.reduce(job.promise, job.waiting_tokens)
        self._on_queue(self._scheduler.queued_tokens)
        self._on_wait(self._admission.seconds)
        return poisoned

    def _take_all(self) -> set[Job]:
        """Every job that may still be unsettled; nothing of them waits any more."""
        waiting = self._scheduler.clear()
        if waiting:
            self._on_queue(0)
        jobs = {*waiting, *(unit.job for hand in self._hands for unit in hand.units)}
        for job in jobs:
            job.given_up = True
        return jobs
