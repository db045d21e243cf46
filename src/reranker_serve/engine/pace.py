"""How long computing takes, and how many tokens texts have, as learned from what was computed. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
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

# A pass of a slow lane takes so many times longer than a full one of the fastest, at most.
_SLOWEST = 2.0

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


class Paces:
    """Those of lanes that compute side by side, of which lane `i` makes passes of up to `full[i]` tokens.

    What is not known of a lane does not count. `pass_seconds` is how long a full pass takes where it takes longest.
    """

    def __init__(self, full: Sequence[float]) -> None:
        self._full = tuple(full)
        self._lanes = {lane: Pace(tokens) for lane, tokens in enumerate(full)}
        self._budgets = dict(enumerate(self._full))
        self._together: float | None = None  # seconds a token
        self._fastest = 1.0  # tokens a second
        self.pass_seconds = 0.0

    def __len__(self) -> int:
        """All lanes, the lost ones too."""
        return len(self._full)

    def learn(self, tokens: int, seconds: float, lane: int = 0) -> None:
        if lane in self._lanes:
            self._lanes[lane].learn(tokens, seconds)
            self._compare()

    def lose(self, lane: int) -> None:
        """It computes no more. The last one's pace stays known, as nothing can be promised by it."""
        if lane in self._lanes and len(self._lanes) > 1:
            del self._lanes[lane]
            self._compare()

    def seconds(self, tokens: float) -> float:
        """What so many tokens take all lanes together; 0 as long as nothing was learned."""
        return tokens * (self._together or 0.0)

    def tokens(self, seconds: float, lane: int) -> float | None:
        """How many the lane can compute in so long; None as long as nothing was learned of it."""
        return self._lanes[lane].tokens(seconds) if lane in self._lanes else None

    def rate(self, lane: int) -> float:
        """Tokens a second; a lane of which nothing was learned counts as the fastest."""
        return self.tokens(1.0, lane) or self._fastest

    def budget(self, lane: int) -> float:
        """Tokens of a full pass: fewer of a lane so much slower than others that who is in it would wait for it."""
        return self._budgets[lane]

    def _compare(self) -> None:
        known = {lane: pace for lane, own in self._lanes.items() if (pace := own.seconds(1))}
        if not known:
            return
        fastest = min(known.values())
        self._fastest = 1 / fastest
        self._together = fastest / sum(fastest / pace for pace in known.values())  # exactly that of a lane alone
        longest = _SLOWEST * min(pace * self._full[lane] for lane, pace in known.items())
        self._budgets |= {lane: min(self._full[lane], longest / pace) for lane, pace in known.items()}
        self.pass_seconds = max(pace * self._budgets[lane] for lane, pace in known.items())


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
