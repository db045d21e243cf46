"""Sends requests and records what came of each.

Open loop: requests leave on a Poisson clock whether or not earlier ones came back, and a
request's latency counts from the moment it was meant to leave. So a server that stalls is
charged for everyone who would have waited ("coordinated omission" leaves them out). Closed
loop: each caller sends its next request when it has the last one's reply.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from reranker_serve.tools.bench.texts import Question
from reranker_serve.tools.dialects import WireDialect, read_answer


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and as what."""

    url: str
    dialect: WireDialect
    model: str
    key: str | None
    timeout: float


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests a second, on average."""

    rate: float


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """How many callers wait for replies."""

    callers: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """A run ends with whichever comes first; what was sent is waited for."""

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds from the run's start.

    `outcome` is the HTTP status, `timeout`, `wrong reply`, or how the connection failed.
    """

    intended: float
    sent: float
    done: float
    outcome: str
    documents: int
    tokens: int | None

    @property
    def good(self) -> bool:
        return self.outcome == "200"

    @property
    def latency(self) -> float:
        return self.done - self.intended


OnSample = Callable[[Sample], None]


async def run_load(
    target: Target,
    loop: OpenLoop | ClosedLoop,
    bounds: Bounds,
    questions: Iterator[Question],
    seed: int,
    on_sample: OnSample,
) -> list[Sample]:
    """Run to one of the bounds; every request that left has a sample."""
    import aiohttp

    headers = target.dialect.all_headers(target.key)
    # No limit on connections: a request that waits for one here would not be sent when it was meant to.
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=target.timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        run = _Run(session, target, bounds, questions, on_sample)
        if isinstance(loop, OpenLoop):
            await run.open_loop(loop.rate, random.Random(seed))
        else:
            await run.closed_loop(loop.callers)
    return run.samples


class _Run:
    def __init__(
        self,
        session: Any,
        target: Target,
        bounds: Bounds,
        questions: Iterator[Question],
        on_sample: OnSample,
    ) -> None:
        self.samples: list[Sample] = []
        self._session = session
        self._target = target
        self._bounds = bounds
        self._questions = questions
        self._on_sample = on_sample
        self._left = bounds.requests
        self._start = time.perf_counter()

    async def open_loop(self, rate: float, source: random.Random) -> None:
        at = source.expovariate(rate)
        async with asyncio.TaskGroup() as tasks:
            while self._left > 0 and at < self._bounds.seconds:
                self._left -= 1
                question = next(self._questions)
                await asyncio.sleep(at - self._now())
                tasks.create_task(self._send(question, at))
                at += source.expovariate(rate)

    async def closed_loop(self, callers: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(self._caller())

    async def _caller(self) -> None:
        while self._left > 0 and self._now() < self._bounds.seconds:
            self._left -= 1
            question = next(self._questions)
            await self._send(question, self._now())

    async def _send(self, question: Question, intended: float) -> None:
        target, sent = self._target, self._now()
        body = json.dumps(target.dialect.body(question.query, question.documents, target.model)).encode()
        tokens: int | None = None
        try:
            async with self._session.post(target.url, data=body) as reply:
                content, outcome = await reply.read(), str(reply.status)
        except TimeoutError:
            content, outcome = b"", "timeout"
        except Exception as error:  # a refused connection, a broken reply: it ends this request alone
            content, outcome = b"", type(error).__name__
        done = self._now()
        if outcome == "200":
            answer = read_answer(target.dialect, content)
            if answer is None or answer.documents != len(question.documents):
                outcome = "wrong reply"
            else:
                tokens = answer.tokens
        sample = Sample(intended, sent, done, outcome, len(question.documents), tokens)
        self.samples.append(sample)
        self._on_sample(sample)

    def _now(self) -> float:
        return time.perf_counter() - self._start
