"""How far it is, how fast, and how long it will still take. Pure: times come in."""

from __future__ import annotations

_UNITS = (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


class Progress:
    """Begun at `start`, when `share` of the whole was done before."""

    def __init__(self, start: float, share: float = 0.0) -> None:
        self._start = start
        self._share = share
        self._pairs = 0

    def line(self, pairs: int, share: float, now: float) -> str:
        """So many pairs were scored since the start, and `share` of the whole is done."""
        seconds, gained = now - self._start, share - self._share
        parts = [f"{share:.1%}", f"{pairs:,} pairs"]
        if seconds > 0:
            parts.append(f"{pairs / seconds:,.0f} pairs/s")
        if gained > 0 and seconds > 0 and share < 1:
            parts.append(f"{duration(seconds * (1 - share) / gained)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Rounded up to what is worth telling: `2 h 5 min`, `40 s`."""
    whole = max(1, -int(-seconds // 1))
    for large, size, small, part in _UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large} {rest} {small}" if rest else f"{whole // size} {large}"
    return f"{whole} s"
