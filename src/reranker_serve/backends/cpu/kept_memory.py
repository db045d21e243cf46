"""Memory of activations on a CPU, from one batch to the next."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable

# Numbers of options, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_GIVE_BACK_SECONDS = 10.0


class KeptMemory:
    """Freed memory of activations, kept for the next batch (glibc only). Make it when a model is loaded.

    By default every tensor of more than 128 KiB..32 MiB is mapped anew and given back, and the
    kernel clears its pages each time: up to a third of a forward pass. One arena, because
    those of other threads are limited to 64 MiB. Batches of ever new sizes leave ever new gaps
    between what stays, so every ten seconds the gaps are given back, which takes about ten milliseconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = math.inf
        try:
            library = ctypes.CDLL(None)
            mallopt, self._trim = library.mallopt, library.malloc_trim
        except (OSError, AttributeError):  # not Linux, or another C library
            return
        for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 1 << 29), (_M_ARENA_MAX, 1)):
            mallopt(option, value)
        self._give_back()  # what loading needed

    def relieve(self) -> None:
        """Give back what lies unused, if the last time was long ago. Call it between batches."""
        if self._clock() >= self._due:
            self._give_back()

    def _give_back(self) -> None:
        self._trim(0)
        self._due = self._clock() + _GIVE_BACK_SECONDS
