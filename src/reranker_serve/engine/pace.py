"""How long computing takes, and how many tokens texts have, as learned from what was computed. Pure."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

# What one pass changes. A machine's speed differs from pass to pass; what is promised must not follow each.
_SMOOTHING = 0.1
# A pass that took ever so long (a machine that was suspended) counts as one that took so much longer than most. But if
# most of the last few differ by so much, the machine has changed.
_STEP, _CHANGE = 2.0, 1.5
_FEW = 5
# What each pass that was too small to count takes from the size that counts: a machine may compute small ones only.
_DECAY = 0.99
# Passes of less than half of this share of a full one tell of overhead alone.
_LEAST_SHARE = 1 / 8

# Characters after which what was learned from texts before counts no more than a third; one request is never more
# than a tenth.
_REMEMBERED = 1_000_000
_LARGEST_SHARE = 0.1


class Pace:
    """Seconds that computing a token takes, in passes of up to `full` tokens."""

    def __init__(self, full: float = math.inf) -> None:
        self._full = full
        self._known: float | None = None
        self._largest = 0.0
        self._recent: deque[float] = deque(maxlen=_FEW)

    def learn(self, tokens: int, seconds: float) -> None:
        """From one pass. One of a single item that is longer than a full pass tells nothing of others.

        Small passes take longer a token than full ones, so they count only if they took less, or if there was no
        larger one for a while.
        """
        if seconds <= 0 or (self._known is not None and tokens > self._full):
            return
        pace = seconds / tokens
        if self._known is None or tokens >= 2 * self._largest:
            self._known = pace
            self._recent.clear()
        elif 2 * tokens >= self._largest or pace < self._known:
            self._known = self._follow(pace, self._known)
        else:
            least = 0.0 if self._full == math.inf else self._full * _LEAST_SHARE
            self._largest = max(least, self._largest * _DECAY)
            return
        self._largest = max(self._largest, min(tokens, self._full))

    def _follow(self, pace: float, known: float) -> float:
        self._recent.append(pace)
        middle = median(self._recent)
        if len(self._recent) == _FEW and not known / _CHANGE < middle < known * _CHANGE:
            return middle
        return known + _SMOOTHING * (min(max(pace, known / _STEP), known * _STEP) - known)

    def seconds(self, tokens: float) -> float:
        """What so many tokens take; 0 as long as nothing was learned."""
        return tokens * (self._known or 0.0)

    def tokens(self, seconds: float) -> float | None:
        """How many can be computed in so long; None as long as nothing was learned."""
        return None if self._known is None else seconds / self._known


class Density:
    """Tokens that a character makes, for a guess before a text is tokenized."""

    def __init__(self, tokens_per_character: float = 0.3) -> None:
        self._known = tokens_per_character

    def learn(self, characters: int, tokens: int) -> None:
        if characters:
            share = min(_LARGEST_SHARE, characters / _REMEMBERED)
            self._known += share * (tokens / characters - self._known)

    def tokens(self, characters: int) -> int:
        return int(characters * self._known)
