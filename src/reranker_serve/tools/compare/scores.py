"""Scores as they come, line by line in a file, so that a comparison that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from reranker_serve.errors import StartupError
from reranker_serve.judgments.candidates import Candidates
from reranker_serve.judgments.collection import Judgments
from reranker_serve.tools.compare.contestants import Contestant

# What a contestant says of itself on which its scores depend.
_TELLING = ("model", "revision", "precision")


@dataclass(slots=True)
class Scored:
    """One contestant's: query id -> a score for each candidate, and query id -> seconds."""

    about: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class ScoreFile:
    """Reads what is there and adds to it. Raises `StartupError` if that is of other candidates or other models."""

    def __init__(self, path: Path, digest: str, contestants: list[Contestant]) -> None:
        self.scored = {contestant.label: Scored() for contestant in contestants}
        self._path = path
        self._identities = {one.label: one.where.identity for one in contestants}
        try:
            known = self._read({"candidates": digest}) if path.exists() else 0
            self._file = path.open("r+b" if known else "wb")
        except OSError as error:
            raise StartupError(f"{path} cannot be opened: {error.strerror}") from None
        self._file.seek(known)
        self._file.truncate()  # what a kill left of a line
        if not known:
            self._write({"candidates": digest})

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def opened(self, label: str, about: dict[str, Any]) -> None:
        """A contestant is there, and says what it is. Raises `StartupError` if it was another when it scored."""
        before = self.scored[label].about
        if any(before[name] != about.get(name) for name in _TELLING if name in before):
            raise self._other(f"{label} when it was another model")
        self.scored[label].about = about
        self._write({"model": label, "identity": self._identities[label], "about": about})

    def add(self, label: str, query: str, scores: list[float], seconds: float) -> None:
        self.scored[label].scores[query] = scores
        self.scored[label].seconds[query] = seconds
        self._write({"model": label, "query": query, "seconds": round(seconds, 9), "scores": scores})

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()

    def _read(self, header: dict[str, Any]) -> int:
        """How many bytes of the file are whole lines."""
        known = 0
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._take(json.loads(line), header if known == 0 else None)
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise StartupError(
                        f"{self._path} holds no scores of a comparison: choose another --output"
                    ) from None
                known += len(line)
        return known

    def _take(self, row: dict[str, Any], header: dict[str, Any] | None) -> None:
        if header is not None:
            if "candidates" not in row:
                raise ValueError
            if row != header:
                raise self._other("other queries or candidates")
            return
        scored = self.scored.get(row["model"])
        if scored is None:
            return  # of one that is not compared this time
        if "query" in row:
            scored.scores[row["query"]], scored.seconds[row["query"]] = row["scores"], row["seconds"]
        elif row["identity"] != json.loads(json.dumps(self._identities[row["model"]])):
            raise self._other(f"{row['model']} with other settings or files")
        else:
            scored.about = row["about"]

    def _other(self, what: str) -> StartupError:
        return StartupError(f"{self._path} has scores of {what}: remove it, or choose another --output")


def candidates_digest(judgments: Judgments, found: Candidates) -> str:
    """Of all that is asked: 64 hex digits."""
    asked = [
        [query, judgments.queries[query], [[name, found.texts[name]] for name in ranking]]
        for query, ranking in found.run.items()
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
