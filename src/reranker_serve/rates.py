"""What a caller may have in a minute and in a day, as `RERANKER_RATE_LIMIT` and a file of keys say it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, cast

Kind = Literal["requests", "tokens"]
Period = Literal["minute", "day"]

DAY_S = 86_400

_LIMIT = re.compile(r"([1-9]\d{0,14})\s+(request|token)s?(?:\s+(?:a|per)\s+(minute|day))?")


def midnight(now: float) -> float:
    """The end of the day, in UTC: seconds since 1970, as `now` is."""
    return now // DAY_S * DAY_S + DAY_S


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests or tokens in a minute or a day."""

    amount: int
    kind: Kind
    period: Period

    def __str__(self) -> str:
        return f"{self.amount} {self.kind.rstrip('s') if self.amount == 1 else self.kind} a {self.period}"

    def share(self, processes: int) -> Limit:
        """What each of `processes` that do not know of each other may give, so that all give no more; 1 at least."""
        return replace(self, amount=max(1, self.amount // processes))


@dataclass(frozen=True, slots=True)
class Rates:
    """All limits of a caller, no two of them of one kind and period, those of a minute first."""

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> Rates:
        """From `600 requests, 2000000 tokens a day`; what names no period is for a minute. Raises `ValueError`."""
        limits: dict[tuple[str, str], Limit] = {}
        for part in text.split(","):
            found = _LIMIT.fullmatch(part.strip())
            place = (found[3] or "minute", f"{found[2]}s") if found else ("", "")
            if found is None or place in limits:
                raise ValueError(
                    "should be like '600 requests, 2000000 tokens a day': each with 'a minute', which may be left out,"
                    " or 'a day', and none of them twice"
                )
            limits[place] = Limit(int(found[1]), cast(Kind, place[1]), cast(Period, place[0]))
        return cls(tuple(sorted(limits.values(), key=lambda limit: (limit.period == "day", limit.kind))))


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands with a limit: what it has `used`, and in how many whole seconds all of it is there again."""

    limit: Limit
    used: int
    seconds: int

    @property
    def left(self) -> int:
        return max(0, self.limit.amount - self.used)
