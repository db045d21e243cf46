"""Quotas are those of folders made here, and the bound on threads is looked up in a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reranker_serve.backends.cpu.cores import available_cores, openmp_threads, threads
from tests.checkpoints import save_cross_encoder

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture
def sixty_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def groups(folder: Path, own: str, **limits: str) -> tuple[Path, Path]:
    """Control groups with these files, and the file that names those of a process."""
    for name, text in limits.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "groups").mkdir(exist_ok=True)
    (folder / "own").write_text(own)
    return folder / "groups", folder / "own"


def v1(folder: str, quota: int, period: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


V2 = "0::/system.slice/reranker.service\n"
V1 = "9:name=systemd:/x\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n"


@pytest.mark.usefixtures("sixty_four")
@pytest.mark.parametrize(
    ("own", "limits", "cores"),
    [
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "350000 100000"}, 3),
        ("0::/\n", {"cpu.max": "broken"}, 64),
        ("0::/\n", {"cpu.max": "10000000 100000"}, 64),
        (V2, {"system.slice/reranker.service/cpu.max": "300000 100000"}, 3),  # systemd: CPUQuota=300%
        (V2, {"system.slice/reranker.service/cpu.max": "max 100000", "system.slice/cpu.max": "500000 100000"}, 5),
        (V2, {"system.slice/reranker.service/cpu.max": "800000 100000", "cpu.max": "200000 100000"}, 2),
        ("0::/docker/of-the-host\n", {"cpu.max": "200000 100000"}, 2),
        (
            V1,
            v1("cpu,cpuacct/docker/abc", 250000, 50000),
            5,
        ),
        (
            V1,
            v1("cpu,cpuacct/docker/abc", -1, 100000),
            64,
        ),
        (V1, v1("cpu", 200000, 100000), 2),
        (V1, {"cpuset/docker/abc/cpu.max": "100000 100000"}, 64),
        (V1 + "0::/\n", v1("cpu/docker", 700000, 100000), 7),
    ],
)
def test_the_least_quota_on_the_way_up_narrows_the_cores(
    tmp_path: Path, own: str, limits: dict[str, str], cores: int
) -> None:
    assert available_cores(*groups(tmp_path, own, **limits)) == cores


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none", tmp_path / "nothing") == HERE


@pytest.mark.parametrize(
    ("wanted", "openmp", "workers", "expected"),
    [
        (None, None, 1, 8),
        (None, None, 3, 2),
        (None, None, 16, 1),
        (5, None, 4, 5),
        (None, "6", 4, 6),
        (5, "6", 4, 5),
        (None, "nonsense", 2, 4),
    ],
)
def test_a_worker_has_what_is_wanted_or_its_share(
    wanted: int | None, openmp: str | None, workers: int, expected: int
) -> None:
    assert threads(wanted, openmp, 8, workers) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), (" 4 ", 4), ("4,2", 4), ("", None), (None, None), ("0", None), ("-1", None), ("x", None)],
)
def test_openmps_variable_is_read_as_openmp_reads_it(text: str | None, number: int | None) -> None:
    assert openmp_threads(text) == number


_LOAD = """
import logging, os, sys
from pathlib import Path
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
from reranker_serve import loader
from reranker_serve.environment import load_settings

settings = {"RERANKER_MODEL_PATH": sys.argv[1], "RERANKER_USE_FP16": "false", "RERANKER_WORKERS": sys.argv[2]}
os.sched_getaffinity = lambda _: set(range(6))
build_family, tokenizing = loader.build_family, []

def counted(*arguments):
    from transformers import AutoTokenizer  # and what that imports has threads of its own
    before = len(os.listdir("/proc/self/task"))
    family = build_family(*arguments)
    family.encode("make food", ["plants sun light " * 50] * 200, max_length=100, instruction=None)
    tokenizing.append(len(os.listdir("/proc/self/task")) - before)
    return family

loader.build_family = counted
loader.load(load_settings(settings, env_file=Path("/nonexistent"))[0])
import torch
print(torch.get_num_threads(), *tokenizing)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
@pytest.mark.parametrize(
    ("environ", "model", "tokenizers", "said"),
    [
        ({}, 3, 3, ""),
        ({"OMP_NUM_THREADS": "2"}, 2, 2, "computing with 2 thread(s): OMP_NUM_THREADS=2 is honoured\n"),
        ({"OMP_NUM_THREADS": "x"}, 3, 3, "computing with 3 thread(s): OMP_NUM_THREADS=x is ignored\n"),
        ({"RAYON_NUM_THREADS": "5"}, 3, 5, ""),
    ],
)
def test_model_and_tokenizers_have_so_many_threads(
    tmp_path: Path, environ: dict[str, str], model: int, tokenizers: int, said: str
) -> None:
    folder = save_cross_encoder("bert", tmp_path / "bert")
    ours = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(folder), "2"],
        env=ours | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"{said}{model} {tokenizers}\n"
