"""A data set scored by replicas of the demo model that Ray Data starts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reranker_serve.api.options import Options
from reranker_serve.demo import MODEL_NAME, demo_folder
from reranker_serve.scale.data import scored
from reranker_serve.settings import Settings
from reranker_serve.tools.in_process import load_in_process
from reranker_serve.tools.score.command import Job, score_file
from reranker_serve.tools.score.files import source
from tests.conftest import fake_settings
from tests.tools.scoring import read, write

ray = pytest.importorskip("ray", reason="Ray is not installed: ./test.sh --ray")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'ray[data]'")

ROOT = Path(__file__).parents[2]
QUERY = "how do plants make food?"
WORKER = b"ray::MapWorker(MapBatches(Scores))"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Of two cores, unless there is one already."""
    if ray.is_initialized():
        yield
        return
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}:{ROOT}"
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def settings() -> Settings:
    return fake_settings(model_path=str(demo_folder()), model_name=MODEL_NAME)


def test_a_data_set_has_the_scores_that_a_file_has(cluster: None, settings: Settings, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": number, "query": QUERY, "documents": [f"plant {number}", "the sun"]} for number in range(300)
    ]
    rows.append({"id": 300, "query": "", "documents": ["nobody asks"]})
    pairs, output = write(tmp_path / "pairs.jsonl", rows), tmp_path / "scores.jsonl"
    job = Job(source(pairs, "score"), output, Options(raw_scores=True))
    assert score_file(job, load_in_process(settings), settings) == 3
    data = ray.data.read_json(str(pairs))
    one = ray.data.ActorPoolStrategy(size=1)
    scored(data, settings, raw_scores=True, compute=one, num_cpus=1).write_parquet(str(tmp_path / "scores"))
    found = {row["id"]: row for row in ray.data.read_parquet(str(tmp_path / "scores")).take_all()}
    assert len(found) == 301
    for line in read(output):
        assert found[line["id"]]["score_error"] == line.get("score_error")
        if "scores" in line:
            assert found[line["id"]]["scores"] == pytest.approx(line["scores"], abs=0.01)


def test_a_replica_that_is_killed_costs_and_doubles_no_row(cluster: None, settings: Settings) -> None:
    killed: list[int] = []

    def kill() -> None:
        """One that has computed for a while."""
        while not (pids := [pid for pid in processes() if seconds_of(pid) > 6]):
            time.sleep(0.1)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    data = ray.data.range(4000, override_num_blocks=20).map(
        lambda row: {"id": row["id"], "query": QUERY, "document": f"plants and the sun {row['id']} " * 8}
    )
    threading.Thread(target=kill, daemon=True).start()
    two = ray.data.ActorPoolStrategy(size=2)
    found = scored(data, settings, compute=two, num_cpus=0.5).take_all()
    assert killed
    assert sorted(row["id"] for row in found) == list(range(4000))
    assert all(0 < row["score"] < 1 for row in found)


def processes() -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(WORKER):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def seconds_of(pid: int) -> float:
    """That it has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
