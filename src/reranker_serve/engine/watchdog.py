"""Notices a forward pass that never ends: a driver or a kernel that hangs raises nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Looks, not a clock: a process that was stopped and resumed has looked no oftener.
_LOOKS = 10


class Watchdog:
    """Calls `on_hang` once, on a thread of its own, when one pass goes on for `seconds` (and a tenth at most)."""

    def __init__(self, seconds: float, on_hang: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_hang = on_hang
        self._passes = 0
        self._busy = False
        self._patience = 1.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    @contextmanager
    def watched(self, patience: float = 1.0) -> Iterator[None]:
        """Around each pass, by the one thread that makes them; this one may take `patience` times the seconds."""
        self._patience = patience
        self._passes += 1
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _watch(self) -> None:
        seen, looks = 0, 0
        while not self._stopped.wait(self._seconds / _LOOKS):
            looks = looks + 1 if self._busy and self._passes == seen else 0
            seen = self._passes
            if looks >= _LOOKS * self._patience:
                self._on_hang()
                return
