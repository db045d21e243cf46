"""Which files are fetched, of which revision, and where a model is found that was fetched before."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reranker_serve.families.prompts import QWEN3_RERANKER
from reranker_serve.model_files.folders import given_folder
from tests.adapters import save_adapter
from tests.checkpoints import load_scorer, save_cross_encoder, save_language_model
from tests.families.test_prompt_choice import as_template
from tests.server.hub import REVISION, hub
from tests.server.processes import CLI, environment

NOWHERE = "http://127.0.0.1:9"
MODEL = "somebody/reranker"
LOCATE = """
from reranker_serve.errors import StartupError
from reranker_serve.model_files.find import locate
from reranker_serve.environment import load_settings
try:
    files = locate(load_settings()[0])
    print(files.folder, files.revision)
except StartupError as error:
    print("error:", error)
"""
OPEN = """
from reranker_serve.model_files.find import opened
from reranker_serve.environment import load_settings
with opened(load_settings()[0]) as files:
    print(sorted(path.name for path in files.folder.iterdir()))
"""


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder("bert", tmp_path_factory.mktemp("published"))


def run(folder: Path, endpoint: str, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    names = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**settings) | names,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def download(folder: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, endpoint, *CLI, "download", *arguments)


def locate(folder: Path, endpoint: str, **settings: str) -> str:
    """The folder and the revision that would be served, without the digits of weights, or the error."""
    done = run(folder, endpoint, sys.executable, "-c", LOCATE, **settings)
    assert done.returncode == 0, done.stderr
    return re.sub("local-[0-9a-f]{12}$", "local", done.stdout.strip().splitlines()[-1])


def in_the_hubs_cache(home: Path, files: Path, revision: str = REVISION) -> Path:
    """`files` as huggingface_hub keeps them below HF_HOME; the snapshot's folder."""
    root = home / "hub" / f"models--{MODEL.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    snapshot = root / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for file in files.iterdir():
        (snapshot / file.name).symlink_to(file)
    return snapshot


def test_all_that_a_model_is_read_from_is_fetched_and_nothing_else(tmp_path: Path) -> None:
    published = save_language_model("qwen3", tmp_path / "published")
    template = as_template(QWEN3_RERANKER).replace("system=''", f"system='{QWEN3_RERANKER.instruction}'")
    (published / "chat_template.jinja").write_text(template)
    (published / "modules.json").write_text("[]")
    wanted = [
        "artifact.metadata",
        "1_Dense/model.safetensors",
        "1_Pooling/config.json",
        "bpe.codes",
        "vocab.txt",
        "merges.txt",
    ]
    unwanted = [
        "pytorch_model.bin",
        "1_Dense/pytorch_model.bin",
        "vocab.pkl",
        "onnx/model.onnx",
        "onnx/config.json",
        "openvino/openvino_model.xml",
        "openvino/config.json",
        "original/consolidated.safetensors",
        "consolidated.safetensors",
    ]
    for name in (*wanted, *unwanted):
        (published / name).parent.mkdir(exist_ok=True)
        (published / name).write_text("{}")
    with hub(MODEL, published) as (endpoint, _):
        done = download(tmp_path, endpoint, MODEL, "models")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "somebody_reranker"
    assert [name for name in wanted if not (folder / name).is_file()] == []
    assert [name for name in unwanted if (folder / name).exists()] == []
    assert load_scorer(folder).family.prompt == "qwen3-reranker"


def test_a_revision_is_pinned_and_shown(tmp_path: Path, reranker: Path) -> None:
    with hub(MODEL, reranker, "v1.0") as (endpoint, asked):
        done = download(tmp_path, endpoint, MODEL, "models", "--revision", "v1.0")
        assert done.returncode == 0, done.stderr
        assert REVISION in done.stdout
        assert any(path.endswith("/revision/v1.0") for path in asked)
        missing = download(tmp_path, endpoint, MODEL, "elsewhere", "--revision", "v9")
        assert "the hub has no revision v9 of somebody/reranker" in missing.stderr.splitlines()[-1]
        folder = "models/somebody_reranker"
        assert locate(tmp_path, endpoint, model_name=MODEL, model_revision="v1.0") == f"{folder} {REVISION}"
        pinned = locate(tmp_path, endpoint, model_name=MODEL, model_revision="v1.0", model_cache_dir="cache")
        assert pinned == f"{tmp_path}/cache/models--somebody--reranker/snapshots/{REVISION} {REVISION}"
        offline = {"model_name": MODEL, "model_cache_dir": "cache", "use_offline_mode": "true"}
        assert locate(tmp_path, NOWHERE, **offline, model_revision="v1.0") == pinned
        assert "somebody/reranker at v9 is not on this machine" in locate(
            tmp_path, NOWHERE, **offline, model_revision="v9"
        )
    line = locate(tmp_path, NOWHERE, model_name=MODEL, model_revision="v1.0", use_offline_mode="true")
    assert line.startswith("error: somebody/reranker at v1.0 is not on this machine")
    assert f"{folder} is of revision {REVISION}" in line
    assert locate(tmp_path, NOWHERE, model_path=folder) == f"{folder} {REVISION}"
    for name in ({"model_path": folder}, {"model_name": MODEL}):
        assert locate(tmp_path, NOWHERE, **name, model_revision=REVISION[:10]) == f"{folder} {REVISION}"
    line = locate(tmp_path, NOWHERE, model_path=folder, model_revision="v2.0")
    assert line.startswith("error: RERANKER_MODEL_REVISION=v2.0")
    assert REVISION in line
    assert folder in line


def test_other_weights_in_a_folder_are_another_revision(tmp_path: Path, reranker: Path) -> None:
    """And the same ones elsewhere, with other files beside them, are not."""
    before = given_folder(reranker, None).revision
    moved = Path(shutil.copytree(reranker, tmp_path / "moved"))
    (moved / "README.md").write_text("another")
    assert given_folder(moved, None).revision == before
    with (moved / "model.safetensors").open("r+b") as weights:
        weights.seek(-100, os.SEEK_END)
        weights.write(bytes(100))
    changed = given_folder(moved, None).revision
    assert re.fullmatch("local-[0-9a-f]{12}", changed)
    assert changed != before


def test_of_a_folder_without_a_known_revision_none_can_be_asked_for(tmp_path: Path, reranker: Path) -> None:
    line = locate(tmp_path, NOWHERE, model_path=str(reranker), model_revision="main")
    assert line.startswith("error: RERANKER_MODEL_REVISION=main")
    assert str(reranker) in line
    assert locate(tmp_path, NOWHERE, model_path=str(reranker)) == f"{reranker} local"


@pytest.mark.parametrize("offline", ["true", "false"])
def test_a_model_in_the_hubs_own_cache_is_found_there(tmp_path: Path, reranker: Path, offline: str) -> None:
    snapshot = in_the_hubs_cache(tmp_path / "hf", reranker)
    with hub(MODEL, reranker) as (endpoint, asked):
        found = locate(tmp_path, endpoint, model_name=MODEL, use_offline_mode=offline)
        assert found == f"{snapshot} {REVISION}"
        assert not any("/resolve/" in path for path in asked)
        assert not asked or offline == "false"
    assert locate(tmp_path, NOWHERE, model_name=MODEL, use_offline_mode=offline) == found
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("lacking", ["model.safetensors", "tokenizer_config.json"])
def test_a_part_of_a_model_in_the_hubs_own_cache_is_not_the_model(tmp_path: Path, reranker: Path, lacking: str) -> None:
    (in_the_hubs_cache(tmp_path / "hf", reranker) / lacking).unlink()
    with hub(MODEL, reranker) as (endpoint, _):
        found = locate(tmp_path, endpoint, model_name=MODEL)
    assert found == f"{tmp_path}/models/models--somebody--reranker/snapshots/{REVISION} {REVISION}"


@pytest.mark.parametrize("given", ["hf", "hf/hub", "hf/hub/models--somebody--reranker"])
def test_a_cache_that_is_given_as_the_folder_is_told_from_a_model(tmp_path: Path, reranker: Path, given: str) -> None:
    snapshot = in_the_hubs_cache(tmp_path / "hf", reranker)
    line = locate(tmp_path, NOWHERE, model_path=given)
    assert line.startswith(f"error: {given} ")
    assert f"RERANKER_MODEL_PATH={snapshot.relative_to(tmp_path)}" in line


def test_a_folder_of_downloaded_models_is_told_from_a_model(tmp_path: Path, reranker: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "somebody_reranker").symlink_to(reranker)
    assert "RERANKER_MODEL_PATH=models/somebody_reranker" in locate(tmp_path, NOWHERE, model_path="models")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["pytorch_model.bin"], "pickled weights only"),
        (["pytorch_model.bin", "onnx/model.onnx"], "pickled weights only"),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], "ONNX weights only"),
        (["model-Q4_K_M.gguf"], "GGUF weights only"),
        (["tf_model.h5"], "TensorFlow or Flax weights only"),
        (["openvino/openvino_model.xml"], "OpenVINO weights only"),
        (["training_args.bin"], "no weights"),
    ],
)
def test_weights_in_another_format_are_named_before_anything_is_fetched(
    tmp_path: Path, files: list[str], said: str
) -> None:
    published = tmp_path / "published"
    for name in (*files, "README.md"):
        (published / name).parent.mkdir(parents=True, exist_ok=True)
        (published / name).touch()
    with hub(MODEL, published) as (endpoint, asked):
        line = download(tmp_path, endpoint, MODEL, "models").stderr.splitlines()[-1]
        assert line.startswith(f"error: somebody/reranker has {said}"), line
        assert "download the model again" not in line
        assert said in locate(tmp_path, endpoint, model_name=MODEL)
        assert not any("/resolve/" in path for path in asked)
    line = locate(tmp_path, NOWHERE, model_path="published")
    assert line == "published local" if said == "no weights" else line.startswith(f"error: published has {said}"), line


def test_a_path_as_the_name_is_a_folder(tmp_path: Path, reranker: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "reranker").symlink_to(reranker)
    for name in ("mine/reranker", "./mine/reranker", str(tmp_path / "mine/reranker")):
        found = locate(tmp_path, NOWHERE, model_name=name)
        assert found == f"{Path(name)} local"
    for name in ("./nothing", "~/nothing-of-this-name", "/nothing"):
        assert "there is no model folder" in run(tmp_path, NOWHERE, *CLI, "serve", model_name=name).stderr


def test_a_pinned_revision_replaces_no_other_one_in_silence(tmp_path: Path, reranker: Path) -> None:
    """What was downloaded without telling of which revision it is, is not taken for the one that is asked for."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "somebody_reranker").symlink_to(reranker)
    with hub(MODEL, reranker, "v1.0") as (endpoint, _):
        assert locate(tmp_path, endpoint, model_name=MODEL) == "models/somebody_reranker local"
        assert locate(tmp_path, endpoint, model_name=MODEL, model_revision="v1.0").endswith(REVISION)


def test_the_names_of_files_of_a_download_are_in_one_revision(tmp_path: Path, reranker: Path) -> None:
    with hub(MODEL, reranker) as (endpoint, _):
        assert download(tmp_path, endpoint, MODEL, "models").returncode == 0
    folder = tmp_path / "models" / "somebody_reranker"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"changed": True}))
    later = (folder / "config.json").stat().st_mtime + 100
    os.utime(folder / "config.json", (later, later))
    assert locate(tmp_path, NOWHERE, model_name=MODEL) == "models/somebody_reranker local"


def test_with_an_adapter_its_base_is_downloaded(
    tmp_path: Path, reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    layers = {"bert.encoder.layer.0.attention.self.query": (48, 48)}
    adapter = save_adapter(tmp_path / "adapter", "some/base", layers)
    with hub(MODEL, adapter, others={"some/base": reranker}) as (endpoint, _):
        done = download(tmp_path, endpoint, MODEL, "models")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "some_base" / "model.safetensors").is_file()
    scorer = load_scorer(tmp_path / "models" / "somebody_reranker", use_offline_mode="true")
    assert scorer.info.revision == REVISION
    with hub(MODEL, adapter) as (endpoint, _):
        line = download(tmp_path, endpoint, MODEL, "elsewhere").stderr.splitlines()[-1]
    assert "its base is missing: the hub has no model some/base" in line


@pytest.mark.parametrize("cached", [True, False])
def test_an_adapter_by_its_name_gets_its_base_from_the_hubs_cache_or_the_hub(
    tmp_path: Path, reranker: Path, cached: bool
) -> None:
    layers = {"bert.encoder.layer.0.attention.self.query": (48, 48)}
    adapter = save_adapter(tmp_path / "published", MODEL, layers)
    if cached:
        in_the_hubs_cache(tmp_path / "hf", reranker)
    with hub("some/adapter", adapter, others={MODEL: reranker}) as (endpoint, asked):
        done = run(tmp_path, endpoint, sys.executable, "-c", OPEN, model_name="some/adapter")
    names = done.stdout.strip()
    assert "'_adapter'" in names, done.stderr + names
    assert "'model.safetensors'" in names
    assert "'tokenizer.json'" in names
    assert any(f"{MODEL}/resolve/" in path for path in asked) == (not cached)


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_download_that_ended_early_is_not_the_model_while_the_hub_has_it(
    tmp_path: Path, reranker: Path, lacking: str
) -> None:
    shutil.copytree(reranker, tmp_path / "models" / "somebody_reranker")
    (tmp_path / "models" / "somebody_reranker" / lacking).unlink()
    with hub(MODEL, reranker) as (endpoint, _):
        found = locate(tmp_path, endpoint, model_name=MODEL)
    assert found == f"{tmp_path}/models/models--somebody--reranker/snapshots/{REVISION} {REVISION}"
    (tmp_path / "alone").mkdir()
    shutil.move(tmp_path / "models" / "somebody_reranker", tmp_path / "alone")
    offline = {"model_name": MODEL, "model_cache_dir": "alone", "use_offline_mode": "true"}
    assert locate(tmp_path, NOWHERE, **offline) == "alone/somebody_reranker local"
