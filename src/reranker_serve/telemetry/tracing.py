"""What is told of requests to whoever traces them: nothing here, spans in `otel.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from reranker_serve.types import EncodedItem


def _unseen(failure: str | None) -> None:
    return None


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

    def forward(self, items: Sequence[EncodedItem]) -> Callable[[str | None], None]:
        """A forward pass over `items` begins; what is returned is told of its end, and the kind of failure if it
        failed. On the model thread."""
        return _unseen

    def close(self) -> None:
        """Send what is not sent yet. Blocks."""
