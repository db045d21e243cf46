"""The threads that tokenize, and who is next: requests of few characters pass those of many."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

from reranker_serve.engine.admission import CharacterBudget
from reranker_serve.errors import NotReady

# Tokenizing releases the interpreter lock. One thread is kept for requests that are not large.
THREADS = 2
_LARGE_CHARACTERS = 256 * 1024

_CLOSED = "the server is shutting down, or has no threads left for the tokenizer"

Result = TypeVar("Result")


@dataclass(order=True, slots=True)
class _Text:
    characters: int
    arrival: int
    work: Callable[[], Any] = field(compare=False)
    done: asyncio.Future[Any] = field(compare=False)


class Tokenizers:
    """Runs what tokenizes. Lives on the event loop; `close` may be called from any thread."""

    def __init__(self, budget: CharacterBudget) -> None:
        self._budget = budget
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizer")
        self._free = THREADS
        self._waiting: list[_Text] = []  # a heap
        self._arrivals = count()

    async def run(self, characters: int, work: Callable[[], Result]) -> Result:
        """The result of `work`, which reads so many characters. When cancelled before it is its turn, it never runs.

        Raises `Overloaded` if there is too much to tokenize already.
        """
        self._budget.take(characters)
        text = _Text(characters, next(self._arrivals), work, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, text)
        self._begin()
        try:
            result: Result = await text.done
        except asyncio.CancelledError:
            self._withdraw(text)
            raise
        return result

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        while self._waiting and self._free:
            # The first one has the fewest characters: if it is large, all are.
            if self._free == 1 and self._waiting[0].characters >= _LARGE_CHARACTERS:
                return
            text = heapq.heappop(self._waiting)
            self._free -= 1
            try:
                running = self._threads.submit(text.work)
            except RuntimeError:  # closed, or the system has no more threads
                running = Future()
                running.cancel()
            running.add_done_callback(partial(self._ended, text, text.done.get_loop()))

    def _ended(self, text: _Text, loop: asyncio.AbstractEventLoop, ended: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._end, text, ended)

    def _end(self, text: _Text, ended: Future[Any]) -> None:
        self._free += 1
        self._budget.give_back(text.characters)
        if not text.done.done():
            error = NotReady(_CLOSED) if ended.cancelled() else ended.exception()
            if error is None:
                text.done.set_result(ended.result())
            else:
                text.done.set_exception(error)
        self._begin()

    def _withdraw(self, text: _Text) -> None:
        """Its caller went away: unless it is being tokenized, it will not be."""
        if text in self._waiting:
            self._waiting.remove(text)
            heapq.heapify(self._waiting)
            self._budget.give_back(text.characters)
