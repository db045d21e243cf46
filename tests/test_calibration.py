"""Scores to probabilities, and the file they come from."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.calibration import Isotonic, Platt, read_calibration
from reranker_serve.errors import SettingsError
from tests.calibrations import basis, calibration

KNOTS = Isotonic(scores=(-1.0, 0.0, 2.0), probabilities=(0.0, 0.2, 0.8))
FINITE = st.floats(-1e6, 1e6, width=32)


def test_platt_is_the_sigmoid_of_a_line() -> None:
    got = calibration(Platt(slope=2.0, intercept=-2.0)).probability(np.array([1, 2, -500, 500], np.float32))
    np.testing.assert_allclose(got, [0.5, 1 / (1 + np.exp(-2.0)), 0, 1], atol=1e-12)


def test_isotonic_is_a_line_between_knots_and_flat_beyond() -> None:
    got = calibration(KNOTS).probability(np.array([-9, -1, -0.5, 1, 2, 9], np.float32))
    np.testing.assert_allclose(got, [0, 0, 0.1, 0.5, 0.8, 0.8], atol=1e-12)


@pytest.mark.parametrize("curve", [Platt(slope=0.3, intercept=1.0), KNOTS])
@given(scores=st.lists(FINITE, min_size=2, max_size=20))
def test_a_higher_score_is_never_less_probable(curve: Platt | Isotonic, scores: list[float]) -> None:
    got = calibration(curve).probability(np.sort(np.array(scores, np.float32)))
    assert (np.diff(got) >= 0).all()
    assert ((got >= 0) & (got <= 1)).all()


@pytest.mark.parametrize("curve", [Platt(slope=0.3, intercept=1.0), KNOTS])
def test_what_was_written_is_read(curve: Platt | Isotonic, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(calibration(curve).model_dump_json())
    assert read_calibration(file) == calibration(curve)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 2}, "format"),
        ({"curve": {"method": "platt", "slope": -1.0, "intercept": 0.0}}, "slope"),
        ({"curve": {"method": "beta"}}, "curve"),
        ({"curve": {"method": "isotonic", "scores": [0.0, 0.0], "probabilities": [0.1, 0.2]}}, "must rise"),
        ({"curve": {"method": "isotonic", "scores": [0.0, 1.0], "probabilities": [0.3, 0.2]}}, "must rise"),
        ({"curve": {"method": "isotonic", "scores": [0.0], "probabilities": [0.3, 0.4]}}, "as many"),
        ({"curve": {"method": "isotonic", "scores": [0.0], "probabilities": [1.3]}}, "probabilities"),
        ({"curve": {"method": "platt", "slope": 1.0, "intercept": "NaN"}}, "intercept"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(json.loads(calibration().model_dump_json()) | changed))
    with pytest.raises(SettingsError, match=said) as problem:
        read_calibration(file)
    assert "reranker-serve calibrate" in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("content", [b"", b"no json", b"\xff\xfe", b"[]", b"{}"])
def test_a_file_that_holds_none_is_told(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="no calibration that this version reads"):
        read_calibration(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"RERANKER_CALIBRATION=.*none.json cannot be read: No such file"):
        read_calibration(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["model", "revision", "precision", "prompt", "instruction"])
def test_one_of_another_model_names_what_differs(name: str) -> None:
    with pytest.raises(SettingsError, match=f"another {name} than is served: 'other', not"):
        calibration(**{name: "other"}).check(basis())


def test_one_for_another_length_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        calibration().check(basis())
        assert not caplog.records
        calibration(max_length=256).check(basis())
    assert "RERANKER_MAX_LENGTH of 256" in caplog.text
