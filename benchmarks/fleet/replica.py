"""A request, and a replica that computes it pass by pass in the order the server's scheduler takes."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

# As the server has them: `engine/scheduler.py`, `RERANKER_MAX_QUEUE_SECONDS`.
PATIENCE = 10
MAX_QUEUE_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class Request:
    """`seconds` of computing on a replica of common speed, of which `guess` is what the router thinks."""

    arrived: float
    seconds: float
    guess: float
    left: float = 0.0
    router: int = 0
    finished: float | None = None
    refused: bool = False

    @property
    def wait(self) -> float:
        """How much longer it took than alone on a replica of common speed."""
        return math.inf if self.finished is None else self.finished - self.arrived - self.seconds


@dataclass(slots=True, eq=False)
class Replica:
    """One device. A second of work takes it `pace` seconds; a pass takes `pass_seconds` and is never broken off."""

    name: int
    pass_seconds: float
    pace: float = 1.0
    began: float = 0.0
    ended: float | None = None
    draining: bool = False
    alive: bool = True
    free_at: float = 0.0
    accepted: float = 0.0
    reported: tuple[float, float] = (0.0, 0.0)  # time and seconds computed until then
    running: Request | None = None
    line: list[tuple[float, int, Request]] = field(default_factory=list)
    arrivals: int = 0

    @property
    def requests(self) -> int:
        """Those that wait, and that which is computed."""
        return len(self.line) + (self.running is not None)

    def waiting(self, now: float) -> float:
        """Seconds until all that was let in is done."""
        return max(0.0, self.free_at - now)

    def computed(self, now: float) -> float:
        """Seconds in which it computed until now."""
        return self.accepted - self.waiting(now)

    def admits(self, request: Request, now: float) -> bool:
        """Whether what is computed before it is not too much: that of no greater size (`Admission._check_wait`)."""
        if self.waiting(now) <= MAX_QUEUE_SECONDS:
            return True
        size = _size(request.seconds)
        before = sum(one.left for _, _, one in self.line if _size(one.left) <= size)
        if self.running and _size(self.running.left) <= size:
            before += self.running.left
        return before * self.pace <= MAX_QUEUE_SECONDS

    def take(self, request: Request, now: float) -> float | None:
        """Let it in; returns when the pass ends that begins with it, or None if another is being computed."""
        seconds = request.seconds * self.pace
        self.free_at = max(self.free_at, now) + seconds
        self.accepted += seconds
        request.left = request.seconds
        self._line_up(request)
        return None if self.running else self.begin(now)

    def begin(self, now: float) -> float | None:
        """The next pass begins; returns its end, or None if there is nothing to compute."""
        if not self.line:
            return None
        self.running = heapq.heappop(self.line)[2]
        return now + min(self.running.left * self.pace, self.pass_seconds)

    def end(self, now: float) -> Request | None:
        """A pass is over; returns the request if it was its last."""
        request = self.running
        assert request
        self.running = None
        request.left -= self.pass_seconds / self.pace
        if request.left > 1e-9:
            self._line_up(request)
            return None
        request.finished = now
        return request

    def lost(self) -> list[Request]:
        """It dies; returns what it had and did not finish."""
        self.alive = False
        return [one for _, _, one in self.line] + ([self.running] if self.running else [])

    def _line_up(self, request: Request) -> None:
        self.arrivals += 1
        turn = request.arrived + PATIENCE * request.left * self.pace
        heapq.heappush(self.line, (turn, self.arrivals, request))


def _size(seconds: float) -> int:
    """Requests of one size differ by less than a factor of two."""
    return math.frexp(seconds)[1]
