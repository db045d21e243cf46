"""Scores to probabilities: reads what `reranker-serve calibrate` wrote for a model, and applies it."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reranker_serve.errors import SettingsError
from reranker_serve.types import FloatArray, Scorer

logger = logging.getLogger(__name__)

Probabilities = NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Platt(_Part):
    """sigmoid(slope x + intercept). Platt, Probabilistic Outputs for Support Vector Machines, 1999."""

    method: Literal["platt"] = "platt"
    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: Finite

    def probability(self, scores: Probabilities) -> Probabilities:
        with np.errstate(over="ignore"):
            probabilities: Probabilities = 1.0 / (1.0 + np.exp(-(self.slope * scores + self.intercept)))
        return probabilities


class Isotonic(_Part):
    """Straight lines between knots, which rise; beyond the first and the last one their own probability."""

    method: Literal["isotonic"] = "isotonic"
    scores: tuple[Finite, ...] = Field(min_length=1)
    probabilities: tuple[Share, ...]

    @model_validator(mode="after")
    def _rises(self) -> Isotonic:
        if len(self.scores) != len(self.probabilities):
            raise ValueError("there must be as many scores as probabilities")
        if any(a >= b for a, b in pairwise(self.scores)) or any(a > b for a, b in pairwise(self.probabilities)):
            raise ValueError("scores and probabilities must rise")
        return self

    def probability(self, scores: Probabilities) -> Probabilities:
        return np.interp(scores, self.scores, self.probabilities)


class Basis(_Part):
    """What changes a model's scores, and so what a calibration holds for. `instruction` None: the model's own."""

    model: str
    revision: str
    precision: str
    prompt: str | None
    instruction: str | None
    max_length: int

    @classmethod
    def of(cls, scorer: Scorer, instruction: str | None) -> Basis:
        """Of a loaded model, with the instruction that the settings name."""
        return cls(
            model=scorer.info.name,
            revision=scorer.info.revision,
            precision=scorer.backend.dtype,
            prompt=scorer.family.prompt,
            instruction=instruction,
            max_length=scorer.family.max_length_bounds[1],
        )


class Data(_Part):
    """The judged pairs that the curve was fitted to; `digest` is of the queries and grades they were taken from."""

    name: str
    digest: str
    queries: int
    pairs: int
    relevant: int
    relevant_from: int


class Estimate(_Part):
    """With the interval that has it in 95 of 100 draws of the queries."""

    value: Share
    low: Share
    high: Share


class Threshold(_Part):
    """What to ask for to have a precision or a recall, and both as they were on the judged pairs, of which `pairs` are
    above. Of all draws of the queries 95 of 100 ask for a `min_probability` within `interval`."""

    goal: Literal["precision", "recall"]
    at_least: Share
    min_score: Share
    min_probability: Share
    interval: tuple[Share, Share]
    pairs: int
    precision: Estimate
    recall: Estimate


class Calibration(_Part):
    """How probable it is that a document of a raw score, in units of `Encoded.unit`, is relevant.

    `error` is the expected calibration error on queries that the curve was not fitted to, `error_before` that of
    `relevance_score`, if it were taken for a probability.
    """

    format: Literal[1] = 1
    made: str
    basis: Basis
    data: Data
    curve: Platt | Isotonic = Field(discriminator="method")
    error_before: Estimate
    error: Estimate
    thresholds: tuple[Threshold, ...] = ()

    def probability(self, scores: FloatArray) -> Probabilities:
        """In [0, 1], same shape, and never less for a higher score; NaN stays."""
        return self.curve.probability(scores.astype(np.float64))

    def check(self, served: Basis) -> None:
        """Raises `SettingsError` if the model that is served has other scores than these."""
        for name in ("model", "revision", "prompt", "instruction", "precision"):
            made_for, here = getattr(self.basis, name), getattr(served, name)
            if made_for != here:
                raise SettingsError(
                    f"RERANKER_CALIBRATION was made for another {name} than is served: {_shown(made_for)}, not"
                    f" {_shown(here)}; calibrate anew, or unset it"
                )
        if self.basis.max_length != served.max_length:
            logger.warning(
                "RERANKER_CALIBRATION was made with a RERANKER_MAX_LENGTH of %d tokens, and %d are read here:"
                " probabilities of long documents may be off",
                self.basis.max_length,
                served.max_length,
            )


def read_calibration(path: Path) -> Calibration:
    """Raises `SettingsError` with one line if there is no calibration in the file."""
    try:
        return Calibration.model_validate_json(path.expanduser().read_bytes())
    except OSError as error:
        raise SettingsError(f"RERANKER_CALIBRATION={path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise SettingsError(
            f"RERANKER_CALIBRATION={path} is no calibration that this version reads"
            f" ({where + ': ' if where else ''}{said}): make it anew with `reranker-serve calibrate`"
        ) from None


def _shown(value: str | None) -> str:
    return "the model's own" if value is None else repr(value)
