"""A backend around another: counts what it raises, and where there is no GPU raises what a GPU would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reranker_serve.engine.kinds import OverlappingBackend, PlacedBackend
from reranker_serve.errors import BackendLost, OutOfMemory
from reranker_serve.types import Backend, EncodedItem, Outputs, Scorer, count_tokens


class Watched:
    """`out_of_memory` is how often it was; `fits`: more tokens are out of memory; `lost`: nothing is computed."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.device, self.dtype, self.attention = backend.device, backend.dtype, backend.attention
        self.batch_token_cap = backend.batch_token_cap
        self.out_of_memory, self.passes = 0, 0
        self.fits: int | None = None
        self.lost = False

    def enter_thread(self) -> None:
        if isinstance(self._backend, PlacedBackend):
            self._backend.enter_thread()

    def forward(self, items: Sequence[EncodedItem]) -> Outputs:
        self._check(items)
        return self._counted(lambda: self._backend.forward(items))

    def _check(self, items: Sequence[EncodedItem]) -> None:
        self.passes += 1
        if self.lost:
            raise BackendLost("the stand-in for a GPU is lost")
        if self.fits is not None and count_tokens(items) > self.fits:
            self.out_of_memory += 1
            raise OutOfMemory("the stand-in for a GPU is full")

    def _counted(self, run: Callable[[], Outputs]) -> Outputs:
        try:
            return run()
        except OutOfMemory:
            self.out_of_memory += 1
            raise


class WatchedOverlapping(Watched):
    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], Outputs]:
        assert isinstance(self._backend, OverlappingBackend)
        self._check(items)
        try:
            result = self._backend.begin(items)
        except OutOfMemory:
            self.out_of_memory += 1
            raise
        return lambda: self._counted(result)


def watched(scorer: Scorer) -> tuple[Scorer, Watched]:
    """One lane of a scorer."""
    alone, (backend, *_) = watched_lanes(scorer)
    return replace(alone, backends=(backend,), warm_ups=scorer.warm_ups[:1]), backend


def watched_lanes(scorer: Scorer) -> tuple[Scorer, list[Watched]]:
    backends = [
        (WatchedOverlapping if isinstance(backend, OverlappingBackend) else Watched)(backend)
        for backend in scorer.backends
    ]
    return replace(scorer, backends=tuple(backends)), backends
