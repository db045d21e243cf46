"""The ways to choose a replica that are compared. One router is one proxy: it sees its own share of the requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Protocol

import numpy as np

from benchmarks.fleet.replica import Replica, Request
from reranker_serve.scale.policy import Report, Routing


class Router(Protocol):
    def choose(self, serving: Sequence[Replica], request: Request, now: float) -> Replica: ...

    def sent(self, replica: Replica, request: Request, now: float) -> None: ...

    def done(self, replica: Replica, request: Request) -> None: ...

    def report(self, replica: Replica, report: Report) -> None: ...

    def gone(self, replica: Replica) -> None: ...

    def settle(self, home: Sequence[Replica]) -> None: ...


class Plain:
    """A router that learns nothing; what is compared overrides `choose`."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice

    def choose(self, serving: Sequence[Replica], request: Request, now: float) -> Replica:
        raise NotImplementedError

    def sent(self, replica: Replica, request: Request, now: float) -> None:
        pass

    def done(self, replica: Replica, request: Request) -> None:
        pass

    def report(self, replica: Replica, report: Report) -> None:
        pass

    def gone(self, replica: Replica) -> None:
        pass

    def settle(self, home: Sequence[Replica]) -> None:
        pass


class RoundRobin(Plain):
    """In turns."""

    def __init__(self, dice: Random) -> None:
        super().__init__(dice)
        self._turns = count(dice.randrange(1_000_000))

    def choose(self, serving: Sequence[Replica], request: Request, now: float) -> Replica:
        return serving[next(self._turns) % len(serving)]


class LeastRequests(Plain):
    """Where fewest of its own requests are without an answer, as HAProxy's `leastconn` does."""

    def __init__(self, dice: Random) -> None:
        super().__init__(dice)
        self._out: dict[Replica, int] = {}

    def choose(self, serving: Sequence[Replica], request: Request, now: float) -> Replica:
        start, out = self.dice.randrange(len(serving)), self._out
        best, least = serving[start], out.get(serving[start], 0)
        for place in range(start + 1, start + len(serving)):
            if not least:
                break
            replica = serving[place % len(serving)]
            if (number := out.get(replica, 0)) < least:
                best, least = replica, number
        return best

    def sent(self, replica: Replica, request: Request, now: float) -> None:
        self._out[replica] = self._out.get(replica, 0) + 1

    def done(self, replica: Replica, request: Request) -> None:
        self._out[replica] -= 1


class TwoChoices(Plain):
    """The one of two that has fewer requests, of all routers and at this moment: what Ray Serve does at its best."""

    def choose(self, serving: Sequence[Replica], request: Request, now: float) -> Replica:
        if len(serving) == 1:
            return serving[0]
        one, other = self.dice.sample(serving, 2)
        return one if one.requests <= other.requests else other


class Seconds:
    """Ours: by the seconds that were reported, and what this router has sent since."""

    def __init__(self, dice: Random) -> None:
        self._routing = Routing[Replica](dice)
        self.report = self._routing.report
        self.gone = self._routing.gone
        self.done = self._routing.done
        self.settle = self._routing.settle

    def choose(self, serving: Sequence[Replica], request: Request, now: float) -> Replica:
        return self._routing.choose(serving, request.guess, now)[0]

    def sent(self, replica: Replica, request: Request, now: float) -> None:
        self._routing.sent(replica, request, request.guess, now)


class Oracle(Plain):
    """Where it is done first, by the true work that waits everywhere and its own. One for all requests."""

    def __init__(self, dice: Random) -> None:
        super().__init__(dice)
        self._places: dict[Replica, int] = {}
        self._free_at = self._paces = np.zeros(0)

    def choose(self, serving: Sequence[Replica], request: Request, now: float) -> Replica:
        if not self._places:
            self._places = {replica: place for place, replica in enumerate(serving)}
            self._free_at = np.array([replica.free_at for replica in serving])
            self._paces = np.array([replica.pace for replica in serving])
        return serving[int(np.argmin(np.maximum(self._free_at, now) + self._paces * request.seconds))]

    def sent(self, replica: Replica, request: Request, now: float) -> None:
        self._free_at[self._places[replica]] = max(replica.free_at, now) + request.seconds * replica.pace

    def settle(self, home: Sequence[Replica]) -> None:
        self._places = {}


ROUTERS: dict[str, Callable[[Random], Router]] = {
    "round robin": RoundRobin,
    "least requests": LeastRequests,
    "two choices": TwoChoices,
    "seconds": Seconds,
    "oracle": Oracle,
}


def routers(kind: str, number: int, dice: Random) -> list[Router]:
    """So many of a kind; an oracle is the same for all."""
    made = [ROUTERS[kind](Random(dice.random())) for _ in range(number)]
    return made[:1] * number if kind == "oracle" else made
