"""What may come in: the one place that says no because there is too much. Pure: no thread, no clock."""

from __future__ import annotations

from reranker_serve.errors import NoMemory


class ByteBudget:
    """Bytes of the request bodies that are in memory, of all connections of the process together.

    Lives on the event loop: not thread-safe, and needs no lock.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self, amount: int) -> None:
        """Raises `NoMemory` if it does not fit now; then nothing is taken."""
        if self.taken + amount > self._limit:
            raise NoMemory(
                f"the server holds {self.taken} bytes of request bodies, of {self._limit} at most"
                " (RERANKER_MAX_BUFFERED_BYTES): retry in 1 s",
                retry_after=1,
            )
        self.taken += amount

    def give_back(self, amount: int) -> None:
        self.taken -= amount
