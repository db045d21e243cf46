"""What a caller may have in a minute, as `RERANKER_RATE_LIMIT` says it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """What a caller may have in a minute; None: as much as it wants."""

    requests: int | None = None
    tokens: int | None = None

    @classmethod
    def parse(cls, text: str) -> Rates:
        """From `600 requests, 1000000 tokens`. Raises `ValueError`."""
        rates: dict[str, int] = {}
        for part in text.split(","):
            found = re.fullmatch(r"\s*([1-9]\d{0,14})\s+(request|token)s?\s*", part)
            if found is None or found[2] + "s" in rates:
                raise ValueError("should be like '600 requests, 1000000 tokens', which may be had in a minute")
            rates[found[2] + "s"] = int(found[1])
        return cls(**rates)

    def share(self, workers: int) -> Rates:
        """What one of `workers` that do not know of each other may give, so that together they give no more."""
        return Rates(*(each and max(1, each // workers) for each in (self.requests, self.tokens)))
