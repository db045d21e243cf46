"""How long computing takes, and how many tokens texts have, as learned from what was computed. Pure."""

from __future__ import annotations

# What one pass changes. A machine's speed differs from pass to pass; what is promised must not follow each.
_SMOOTHING = 0.1
# A pass that took ever so long (a machine that was suspended) counts as one that took so much longer than most.
_STEP = 2.0

# Characters after which what was learned from texts before counts no more than a third.
_REMEMBERED = 1_000_000


class Pace:
    """Seconds that computing a token takes."""

    def __init__(self) -> None:
        self._known: float | None = None
        self._largest = 0

    def learn(self, tokens: int, seconds: float) -> None:
        """From one pass. Small ones tell little of full ones, so they count only until there was a larger one."""
        if seconds <= 0 or 2 * tokens < self._largest:
            return
        pace = seconds / tokens
        if self._known is None or tokens >= 2 * self._largest:
            self._known = pace
        else:
            pace = min(max(pace, self._known / _STEP), self._known * _STEP)
            self._known += _SMOOTHING * (pace - self._known)
        self._largest = max(self._largest, tokens)

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
            share = min(1.0, characters / _REMEMBERED)
            self._known += share * (tokens / characters - self._known)

    def tokens(self, characters: int) -> int:
        return int(characters * self._known)
