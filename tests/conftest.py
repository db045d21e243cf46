"""Fixtures shared by the tests on the fake scorer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from reranker_serve.app import create_app
from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.environment import load_settings
from reranker_serve.settings import Settings
from reranker_serve.types import EncodedItem

# These run in environments of their own: ./test.sh --clients, ./test.sh --ray.
collect_ignore = ["clients"] if find_spec("ray") else ["clients", "ray"]

Connect = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def fake_settings(**values: str) -> Settings:
    """Settings from these values alone."""
    environ = {f"RERANKER_{name.upper()}": value for name, value in values.items()}
    return load_settings(environ, env_file=Path("/nonexistent"))[0]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a command sets up for its process is not to reach the tests after it."""
    root, own = logging.getLogger(), logging.getLogger("reranker_serve")
    handlers, levels = set(root.handlers), (root.level, own.level)
    yield
    for handler in set(root.handlers) - handlers:
        root.removeHandler(handler)
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
def connect() -> Connect:
    """`async with connect(backend, max_documents="3") as client:` talks to the application in-process."""

    @asynccontextmanager
    async def begin(backend: FakeBackend | None = None, **values: str) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(fake_settings(model_name="fake", **values), fake_scorer(backend))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=10) as client:
                yield client

    return begin


class Gate:
    """A `before_forward` that holds the model until it is opened."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, items: Sequence[EncodedItem]) -> None:
        self._entered.set()
        assert self._open.wait(10)

    async def entered(self) -> None:
        """Until a batch has reached the model."""
        assert await asyncio.to_thread(self._entered.wait, 10)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Gate:
    return Gate()
