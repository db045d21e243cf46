"""Calibrations of the fake model, as `reranker-serve calibrate` writes them."""

from __future__ import annotations

from typing import Any

from reranker_serve.calibration import Basis, Calibration, Data, Estimate, Isotonic, Platt, Threshold

DATA = Data(name="judged", digest="sha256:0", queries=50, pairs=500, relevant=60, relevant_from=1)
HALF = Threshold(
    goal="precision",
    at_least=0.9,
    min_score=0.8,
    min_probability=0.5,
    interval=(0.4, 0.6),
    pairs=50,
    precision=Estimate(value=0.92, low=0.85, high=0.97),
    recall=Estimate(value=0.4, low=0.3, high=0.5),
)


def basis(**changed: Any) -> Basis:
    facts = {
        "model": "fake",
        "revision": "none",
        "precision": "float32",
        "prompt": None,
        "instruction": None,
        "max_length": 512,
    }
    return Basis.model_validate(facts | changed)


def calibration(curve: Platt | Isotonic | None = None, **changed: Any) -> Calibration:
    """Probability 0.5 at a raw score of 1 unless another curve is given."""
    return Calibration(
        made="2026-01-01T00:00:00+00:00",
        basis=basis(**changed),
        data=DATA,
        curve=curve or Platt(slope=2.0, intercept=-2.0),
        error_before=Estimate(value=0.3, low=0.25, high=0.35),
        error=Estimate(value=0.04, low=0.02, high=0.07),
        thresholds=(HALF,),
    )
