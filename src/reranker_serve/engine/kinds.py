"""What a backend may offer beside its contract, of which its lane makes use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from reranker_serve.types import Backend, EncodedItem, Outputs


@runtime_checkable
class OverlappingBackend(Backend, Protocol):
    """A backend whose device computes by itself: the next batch can be prepared meanwhile."""

    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], Outputs]:
        """Start what `forward` does; the function returned waits for it and has its result.

        Passes are computed in the order begun. Both may raise what `forward` raises.
        """


@runtime_checkable
class PlacedBackend(Backend, Protocol):
    """A backend whose device or memory belongs to some threads more than to others."""

    def enter_thread(self) -> None:
        """Called once, and first, by the thread that is going to compute."""
