"""What is told of requests to whoever traces them: nothing here, spans in `otel.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from reranker_serve.types import Backend, EncodedItem


class Tracing:
    """The spans of requests and forward passes; this one makes none and costs nothing."""

    def request(self, headers: Mapping[str, str]) -> AbstractContextManager[str]:
        """A rerank request that came with `headers`; gives its trace id in hex, or nothing."""
        return nullcontext("")

    def describe(self, fields: Mapping[str, str | int | float]) -> None:
        """What is known of the present request when it ends."""

    def tokenize(self) -> AbstractContextManager[None]:
        """Tokenizing for the present request."""
        return nullcontext()

    def queue(self, items: Iterable[EncodedItem]) -> AbstractContextManager[None]:
        """The present request waits for `items`; the span ends when the first of them is computed."""
        return nullcontext()

    def traced(self, backend: Backend) -> Backend:
        """`backend` with a span for each forward pass."""
        return backend

    def close(self) -> None:
        """Send what is not sent yet. Blocks."""
