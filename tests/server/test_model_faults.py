"""Model files that are missing, cut off, unreadable or of another model: one line that says what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reranker_serve.errors import ModelError
from tests.checkpoints import load_scorer, save_cross_encoder, save_language_model
from tests.server.hub import hub
from tests.server.test_startup_errors import start

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_cross_encoder("bert", folder / "bert")
    save_language_model("qwen3", folder / "qwen3")
    return folder


def without(*patterns: str) -> Spoil:
    return lambda folder: [path.unlink() for pattern in patterns for path in folder.glob(pattern)]


def cut(name: str, keep: int | None = None) -> Spoil:
    """Only the first bytes of a file: so many, or half."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2 if keep is None else keep])

    return spoil


def content(name: str, raw: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(raw)


def unreadable(name: str) -> Spoil:
    """A file whose reading fails in the device below it, whoever reads: permissions do not stop root."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/proc/self/mem")

    return spoil


def no_file(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def config(**changes: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def foreign_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    description["model"]["vocab"]["plants"] = 99_999
    path.write_text(json.dumps(description))


def half_of_the_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weights = {"classifier.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


FAULTS: list[tuple[str, str, Spoil, list[str]]] = [
    ("weights cut off", "bert", cut("model.safetensors"), ["weights", "download the model again"]),
    ("weights' header cut off", "bert", cut("model.safetensors", 20), ["weights", "download the model again"]),
    ("weights empty", "bert", cut("model.safetensors", 0), ["weights", "download the model again"]),
    ("weights unreadable", "bert", unreadable("model.safetensors"), ["weights", "download the model again"]),
    ("weights are a folder", "bert", no_file("model.safetensors"), ["model.safetensors"]),
    ("half of the shards", "bert", half_of_the_shards, ["model-00002-of-00002", "download the model again"]),
    ("weights of another size", "bert", config(hidden_size=64), ["weights", "config.json", "other shapes"]),
    ("config no text", "bert", content("config.json", b"\x00\xff{"), ["config.json cannot be read"]),
    ("config cut off", "bert", cut("config.json"), ["config.json cannot be read"]),
    ("config unreadable", "bert", unreadable("config.json"), ["config.json cannot be read", "Input/output error"]),
    ("config a folder", "bert", no_file("config.json"), ["config.json cannot be read", "Is a directory"]),
    ("config no object", "bert", content("config.json", b"[]"), ["config.json is not a model's configuration"]),
    ("positions no number", "bert", config(max_position_embeddings="many"), ["config.json", "max_position_embeddings"]),
    ("size no number", "bert", config(hidden_size="wide"), ["config.json", "hidden_size", "'wide'"]),
    ("size negative", "bert", config(hidden_size=-5), ["config.json", "hidden_size", "-5"]),
    ("architectures no list", "bert", config(architectures=5), ["config.json", "architectures"]),
    ("labels no object", "bert", config(id2label=5), ["config.json", "id2label"]),
    ("unknown type", "bert", config(model_type="nonsense"), ["nonsense"]),
    ("no tokenizer", "bert", without("tokenizer*", "*.txt"), ["no tokenizer", "tokenizer.json"]),
    ("no tokenizer.json", "bert", without("tokenizer.json"), ["no tokenizer", "tokenizer.json"]),
    ("no tokenizer of a language model", "qwen3", without("tokenizer*"), ["no tokenizer", "tokenizer.json"]),
    ("tokenizer no text", "bert", content("tokenizer.json", b"\x00\xff{"), ["tokenizer", "cannot be loaded"]),
    ("tokenizer cut off", "qwen3", cut("tokenizer.json"), ["tokenizer", "cannot be loaded"]),
    ("tokenizer no object", "bert", content("tokenizer.json", b"[]"), ["tokenizer", "cannot be loaded"]),
    ("tokenizer a folder", "bert", no_file("tokenizer.json"), ["tokenizer", "Is a directory"]),
    ("tokenizer of another model", "bert", foreign_vocabulary, ["tokenizer", "99999", "another model"]),
]


@pytest.mark.parametrize(("model", "spoil", "said"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_each_fault_is_one_line(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], model: str, spoil: Spoil, said: list[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / model, folder)
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        load_scorer(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    assert all(part in line for part in said), line
    assert not any(capfd.readouterr()), "the libraries printed something of their own"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut("model.safetensors"), ["weights", "download the model again"]),
        (no_file("model.safetensors"), ["model.safetensors"]),
        (cut("config.json"), ["config.json cannot be read"]),
        (without("tokenizer*"), ["no tokenizer"]),
    ],
    ids=["weights cut off", "weights are a folder", "config cut off", "no tokenizer"],
)
def test_the_server_ends_with_that_line(models: Path, tmp_path: Path, spoil: Spoil, said: list[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "bert", folder)
    spoil(folder)
    status, line = start(tmp_path, model_path=str(folder))
    assert status == 3
    assert all(part in line for part in said), line


def test_a_disk_that_is_full_is_named(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models"
    cache.mkdir()
    # A file system of 100 kB, in a namespace of its own: it is gone with the process.
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'mount -t tmpfs -o size=100k none {cache} && "$@"']
    try:
        subprocess.run([*mounted, "sh", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount a file system")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with hub("some/model", models / "bert") as (endpoint, asked):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        status, line = start(tmp_path, within=[*mounted, "sh"], model_name="some/model")
    assert any(path.endswith("/model.safetensors") for path in asked)
    assert status == 3
    assert "No space left on device" in line
    assert "RERANKER_MODEL_CACHE_DIR" in line
    assert "connection" not in line
