"""What may come in: the one place that says no because there is too much. Pure: no thread, no clock.

A request is let in when, with it, everything that was let in before is still done in time, and so is it itself. What
that takes in seconds follows from the tokens that wait and the rate that passes were measured at.
"""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reranker_serve.engine.pace import Paces
from reranker_serve.errors import DeadlineExceeded, NoMemory, Overloaded, RequestTooLarge

# How much of the time until a request is due may be filled by what is due before it, when it comes in; and how much
# later, when others came that are computed before it. The rest is for passes that take longer than those before.
# Chosen with `benchmarks/scheduling.py`.
_FILLED_AT_FIRST, _FILLED_LATER = 0.8, 0.85
# An idle server tries what would take so much longer than it may: its rate may have been measured in worse times.
# After so many seconds without a pass it tries anything once, or a speed that is no longer true would stay for ever.
_DOUBT = 4.0
_FORGOTTEN_S = 10.0
_LONGEST_RETRY_S = 600
# Callers that were refused together come back over a time that is so much longer.
_RETRY_SPREAD = 0.5


class ByteBudget:
    """Bytes of the request bodies that are in memory, of all connections of the process together.

    Lives on the event loop: not thread-safe, and needs no lock.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self, amount: int) -> None:
        """Raises `NoMemory` if it does not fit now; then nothing is taken."""
        if self.taken + amount > self._limit:
            raise NoMemory(
                f"the server holds {self.taken} bytes of request bodies, of {self._limit} at most"
                " (RERANKER_MAX_BUFFERED_BYTES): retry in 1 s",
                retry_after=1,
            )
        self.taken += amount

    def give_back(self, amount: int) -> None:
        self.taken -= amount


class CharacterBudget:
    """Characters of the texts that wait to be tokenized, or are being. Lives on the event loop, as `ByteBudget`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self, amount: int) -> None:
        """Raises `Overloaded` if it does not fit beside what is there; alone everything does."""
        if self.taken and self.taken + amount > self._limit:
            raise Overloaded(
                f"the server is overloaded: {self.taken} characters wait to be tokenized, of {self._limit} at most;"
                " retry in 1 s",
                1,
            )
        self.taken += amount

    def give_back(self, amount: int) -> None:
        self.taken -= amount


@dataclass(slots=True, eq=False)
class Promise:
    """Work that was let in: `tokens` of it are still to be computed.

    That is to be done at `due`; of a request that is not `firm`, as much as there is time for until then. Where
    `tokens` is a guess, so many of them are `certain`.
    """

    tokens: int
    due: float
    priority: int = 0
    firm: bool = True
    certain: int = 0

    @property
    def size(self) -> int:
        """Requests of one size differ by less than a factor of two."""
        return self.tokens.bit_length()


class Admission:
    """Lets requests in or refuses them, by tokens and by seconds. Not thread-safe: the engine calls it under its lock.

    At most `max_tokens` wait, and before none is more to be computed than takes `max_seconds`. A pass of lane `i` holds
    `pass_tokens[i]`. Times are seconds of one monotonic clock. `jitter` gives numbers in [0, 1).
    """

    def __init__(
        self,
        max_tokens: int,
        max_seconds: float,
        pass_tokens: Sequence[int],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.pace = Paces(pass_tokens)
        self._computed_at = -math.inf
        self._max_tokens = max_tokens
        self._max_seconds = max_seconds
        self._jitter = jitter
        self._held: set[int] = set()
        self._firm: list[Promise] = []  # in the order of their due times
        self._firm_tokens = 0
        self._sizes: Counter[tuple[bool, int, int]] = Counter()  # tokens, by whether firm, priority and size
        self.tokens = 0

    @property
    def seconds(self) -> float:
        """How long it takes to compute all that was let in and is not computed yet."""
        return self.pace.seconds(sum(self._sizes.values()))

    def learn(self, tokens: int, seconds: float, now: float, lane: int = 0) -> None:
        """A pass of so many tokens that took so long is done."""
        self.pace.learn(tokens, seconds, lane)
        self._computed_at = now

    def admit(self, promise: Promise, now: float, least: int | None = None) -> None:
        """Let a request in, of which `least` tokens are certain where its number is a guess.

        Raises `RequestTooLarge` if it can never come in, `DeadlineExceeded` if it would be late even alone,
        `Overloaded` if it cannot come in now.
        """
        promise.certain = promise.tokens if least is None else least
        self._check_tokens(promise.certain)
        self._check_wait(promise, now)
        if promise.firm:
            self._check_due(promise, now)
        self._hold(promise)

    def correct(self, promise: Promise, tokens: int, now: float) -> None:
        """A guess turned out to be so many tokens. Raises as `admit` does; then the request is out."""
        more = tokens > promise.tokens
        self.forget(promise)
        promise.tokens = promise.certain = tokens
        self._check_tokens(tokens)
        if more and promise.firm:
            self._check_due(promise, now)
        self._hold(promise)

    def reduce(self, promise: Promise, tokens: int) -> None:
        """So many tokens are left of it; nothing, if it is out already."""
        if id(promise) in self._held:
            self._count(promise, -1)
            promise.tokens = promise.certain = tokens
            self._count(promise, 1)

    def forget(self, promise: Promise) -> None:
        """It is done, or given up; idempotent."""
        if id(promise) not in self._held:
            return
        self._held.remove(id(promise))
        self._count(promise, -1)
        if promise.firm:
            at = bisect.bisect_left(self._firm, promise.due, key=_due)
            while self._firm[at] is not promise:
                at += 1
            del self._firm[at]

    def pressing(self, now: float) -> float:
        """What is due until then has to go first now, or it would be late; -inf: there is time for something else.

        What cannot be in time any more presses no longer.
        """
        until, work = -math.inf, 0.0
        # Something else takes a pass, and what is being computed is counted whole.
        start = now + 2 * self.pace.pass_seconds
        if self._firm and start + self.pace.seconds(self._firm_tokens) / _FILLED_LATER > self._firm[0].due:
            for promise in self._firm:
                own = self.pace.seconds(promise.tokens)
                if own and now + own <= promise.due:
                    work += own
                    if start + work / _FILLED_LATER > promise.due:
                        until = promise.due
        return until

    def _check_tokens(self, tokens: int) -> None:
        limit = self._max_tokens
        if tokens > limit:
            raise RequestTooLarge(
                f"the request has at least {tokens} tokens, the queue holds at most {limit}:"
                " send fewer documents at a time"
            )
        excess = self.tokens + tokens - limit
        if excess > 0:
            raise self._overloaded(f"{self.tokens} of {limit} queue tokens are taken", self.pace.seconds(excess))

    def _check_wait(self, new: Promise, now: float) -> None:
        """What is computed before it must not take longer than the queue may.

        A firm one does not wait for those that are not; and what is due later can wait for it.
        """
        before = self.pace.seconds(
            sum(
                tokens
                for (firm, priority, size), tokens in self._sizes.items()
                if firm >= new.firm and priority <= new.priority and size <= new.size
            )
        )
        excess = before - (self._max_seconds if new.firm else min(self._max_seconds, new.due - now))
        if before and excess > 0:
            raise self._overloaded(f"{_told(before)} of work wait", excess)

    def _check_due(self, new: Promise, now: float) -> None:
        """It must be in time, and make nobody late who is in time without it."""
        own, left = self.pace.seconds(new.tokens), new.due - now
        if own > left * self._doubt(now):
            raise DeadlineExceeded(
                f"the request would take about {_told(own)} and is to be done within {_told(left)}:"
                " send fewer documents, or give it more time"
            )
        if not self._firm:
            return
        start = now + self.pace.pass_seconds
        before, late = self.pace.seconds(self._firm_tokens), 0.0
        for promise in reversed(self._firm):
            if promise.due <= new.due:
                break
            finished = start + (before + own) / _FILLED_LATER
            if now + before <= promise.due < finished:
                late = max(late, finished - promise.due)
            before -= self.pace.seconds(promise.tokens)
        late = max(late, start + before / _FILLED_AT_FIRST + own - new.due)
        if late > 0:
            waiting = self.pace.seconds(self._firm_tokens)
            raise self._overloaded(f"{_told(waiting)} of work wait, and this takes {_told(own)}", late)

    def _doubt(self, now: float) -> float:
        """How many times more than its time a request may seem to take, and still be tried."""
        if self._firm:
            return 1.0
        return _DOUBT if now - self._computed_at < _FORGOTTEN_S else math.inf

    def _overloaded(self, why: str, excess: float) -> Overloaded:
        spread = 1 + _RETRY_SPREAD * self._jitter()
        retry = min(_LONGEST_RETRY_S, max(1, math.ceil(excess * spread)))
        return Overloaded(f"the server is overloaded: {why}; retry in {retry} s", retry)

    def _hold(self, promise: Promise) -> None:
        self._held.add(id(promise))
        self._count(promise, 1)
        if promise.firm:
            bisect.insort(self._firm, promise, key=_due)

    def _count(self, promise: Promise, sign: int) -> None:
        tokens = sign * promise.tokens
        self.tokens += sign * promise.certain
        kind = promise.firm, promise.priority, promise.size
        self._sizes[kind] += tokens
        if not self._sizes[kind]:
            del self._sizes[kind]
        if promise.firm:
            self._firm_tokens += tokens


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _due(promise: Promise) -> float:
    return promise.due
