"""Ray Serve's choice of a replica, by seconds of waiting work instead of by requests."""

from __future__ import annotations

import math
import pickle
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from reranker_serve.scale.policy import Report, Routing
from reranker_serve.scale.traffic import BUSY, MADE, PACE, WAITING, body_length

# Of so many reports the one that came soonest tells how clocks differ: of all of them it would tell how they once did.
_CLOCK_REPORTS = 60
# A request that was not taken by a replica for so long never will be.
_UNHEARD_S = 10.0


@dataclass(frozen=True, slots=True)
class _Choice:
    replica: ReplicaID
    length: float
    at: float


@dataclass(slots=True)
class _Clock:
    """A replica's, which differs from the reader's by some time; the report that came soonest tells by how much."""

    made: float | None = None
    ahead: deque[float] = field(default_factory=lambda: deque(maxlen=_CLOCK_REPORTS))

    def read(self, made: float, now: float) -> float | None:
        """When by the reader's clock a report was made; None if it is the last one again."""
        if made == self.made:
            return None
        self.made = made
        self.ahead.append(made - now)
        return made - max(self.ahead)


class WaitingSecondsRouter(RequestRouter):  # type: ignore[misc]  # linted where Ray is not installed
    """One lives in each proxy. Ranks replicas as `Routing` does: a request's work is the bytes of its body, home is the
    proxy's own node.

    Ray takes the first replica that answers; it would take the one with the fewest requests of several of one rank, so
    each has a rank of its own.
    """

    def __init__(self, *arguments: Any, self_node_id: str | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._node = self_node_id
        self._routing: Routing[ReplicaID] = Routing()
        self._reports: dict[ReplicaID, _Clock] = {}
        self._chosen: dict[str, _Choice] = {}  # and not yet heard of, the oldest first
        self._mean_length = 0.0
        self._most_bytes = math.inf

    def initialize_state(self, max_body_bytes: float = math.inf) -> None:
        """Called by Ray after the constructor. A longer body is refused by the replica."""
        self._most_bytes = max_body_bytes

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        now = time.monotonic()
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        for replica in candidate_replicas:
            self._take_report(replica, now)
        length = self._length(pending_request)
        best_first = self._routing.choose(list(by_id), length, now)
        if pending_request is not None and best_first:
            self._choose(pending_request, _Choice(best_first[0], length, now))
        return [[by_id[one]] for one in best_first]

    def _choose(self, pending: PendingRequest, choice: _Choice) -> None:
        """Count it now, and not when the replica has answered: who is routed meanwhile must know."""
        request = pending.metadata.internal_request_id
        self._take_back(request)
        self._chosen[request] = choice
        self._routing.sent(choice.replica, request, choice.length, choice.at)
        # Whoever went away before he was sent: Ray tells nothing of him.
        while (oldest := next(iter(self._chosen))) and choice.at - self._chosen[oldest].at > _UNHEARD_S:
            self._take_back(oldest)

    def _take_back(self, request: str) -> None:
        if choice := self._chosen.pop(request, None):
            self._routing.done(choice.replica, request)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        request = pending_request.metadata.internal_request_id
        choice = self._chosen.pop(request, None)
        if choice and choice.replica != replica_id:  # it did not answer, and the next best was taken
            self._routing.done(choice.replica, request)
            self._routing.sent(replica_id, request, choice.length, time.monotonic())

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._routing.done(replica_id, internal_request_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._forget(replica_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        for replica_id in self.curr_replicas.keys() - {replica.replica_id for replica in replicas}:
            self._forget(replica_id)
        self._routing.settle(replica.replica_id for replica in replicas if replica.node_id == self._node)
        super().update_replicas(replicas)

    def _forget(self, replica_id: ReplicaID) -> None:
        self._reports.pop(replica_id, None)
        self._routing.gone(replica_id)

    def _take_report(self, replica: RunningReplica, now: float) -> None:
        told = replica.routing_stats
        if not told:
            return
        clock = self._reports.setdefault(replica.replica_id, _Clock())
        if (at := clock.read(told[MADE], now)) is not None:
            self._routing.report(replica.replica_id, Report(at, told[WAITING], told[PACE], told[BUSY]))

    def _length(self, pending: PendingRequest | None) -> float:
        """Bytes of the request's body; the mean of late where they cannot be told."""
        length = told_length(pending, self._most_bytes)
        if length is None:
            return self._mean_length
        if length:
            self._mean_length += (0.05 if self._mean_length else 1.0) * (length - self._mean_length)
        return length


def told_length(pending: PendingRequest | None, most: float = math.inf) -> int | None:
    """What the header of a request says, which the proxy, in this same process, has pickled; None if nothing does.
    0 above `most`.
    """
    if pending is None or not pending.args or not isinstance(pending.args[0], bytes):
        return None
    scope = getattr(pickle.loads(pending.args[0]), "asgi_scope", None)
    if scope is None:
        return None
    length = body_length(scope, most)
    return 0 if length is None and scope.get("method") != "POST" else length
