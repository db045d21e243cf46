from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from reranker_serve.engine.admission import CharacterBudget
from reranker_serve.engine.tokenizers import Tokenizers
from reranker_serve.errors import NotReady, Overloaded

LARGE = 1_000_000


@pytest.fixture
async def tokenizers() -> AsyncIterator[Tokenizers]:
    made = Tokenizers(CharacterBudget(10 * LARGE))
    yield made
    made.close()


class Held:
    """Work that goes on until it is let go; `begun` has the names of what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._free = threading.Event()

    def work(self, name: str) -> Callable[[], str]:
        def run() -> str:
            self.begun.append(name)
            assert self._free.wait(10)
            return name

        return run

    def let_go(self) -> None:
        self._free.set()


async def settled(held: Held, begun: int) -> None:
    """Until so many were begun, and a moment longer."""
    for _ in range(1000):
        if len(held.begun) >= begun:
            break
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.02)


async def test_the_result_comes_back_and_so_does_an_error(tokenizers: Tokenizers) -> None:
    assert await tokenizers.run(3, lambda: "abc") == "abc"
    with pytest.raises(ZeroDivisionError):
        await tokenizers.run(3, lambda: 1 // 0)


async def test_large_texts_leave_a_thread_to_small_ones(tokenizers: Tokenizers) -> None:
    held = Held()
    large = [asyncio.create_task(tokenizers.run(LARGE, held.work(f"large {n}"))) for n in range(4)]
    await settled(held, 1)
    assert held.begun == ["large 0"]
    assert await tokenizers.run(10, lambda: "small") == "small"
    held.let_go()
    assert await asyncio.gather(*large) == [f"large {n}" for n in range(4)]


async def test_those_of_fewer_characters_go_first(tokenizers: Tokenizers) -> None:
    held = Held()
    running = [asyncio.create_task(tokenizers.run(1, held.work(name))) for name in ("a", "b")]
    await settled(held, 2)
    later = [asyncio.create_task(tokenizers.run(n, lambda n=n: held.begun.append(str(n)))) for n in (30, 20, LARGE, 10)]
    await asyncio.sleep(0.01)
    held.let_go()
    await asyncio.gather(*running, *later)
    assert held.begun == ["a", "b", "10", "20", "30", str(LARGE)]


async def test_what_nobody_waits_for_any_more_is_not_tokenized_and_frees_its_characters(tokenizers: Tokenizers) -> None:
    held = Held()
    running = [asyncio.create_task(tokenizers.run(1, held.work(name))) for name in ("a", "b")]
    await settled(held, 2)
    gone = [asyncio.create_task(tokenizers.run(5 * LARGE, held.work("gone"))) for _ in range(1)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await tokenizers.run(6 * LARGE, lambda: None)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    last = asyncio.create_task(tokenizers.run(6 * LARGE, lambda: "there is room"))
    await asyncio.sleep(0.01)
    held.let_go()
    assert await last == "there is room"
    await asyncio.gather(*running)
    assert held.begun == ["a", "b"]


async def test_at_the_end_what_is_done_is_told_and_what_waits_is_refused(tokenizers: Tokenizers) -> None:
    held = Held()
    tasks = [asyncio.create_task(tokenizers.run(n, held.work(str(n)))) for n in range(4)]
    await settled(held, 2)
    tokenizers.close()
    held.let_go()
    async with asyncio.timeout(5):
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[:2] == ["0", "1"]
    assert [type(one) for one in done[2:]] == [NotReady, NotReady]


async def test_work_whose_caller_went_away_holds_its_thread_and_characters_until_it_is_done(
    tokenizers: Tokenizers,
) -> None:
    held = Held()
    gone = asyncio.create_task(tokenizers.run(9 * LARGE, held.work("gone")))
    await settled(held, 1)
    gone.cancel()
    with pytest.raises(Overloaded):
        await tokenizers.run(2 * LARGE, lambda: None)
    held.let_go()
    for _ in range(1000):
        try:
            assert await tokenizers.run(2 * LARGE, lambda: "done") == "done"
            return
        except Overloaded:
            await asyncio.sleep(0.002)
    raise AssertionError("its characters are never given back")
