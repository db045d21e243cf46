"""Lanes of a CPU: cores are those of trees made here, and a real model computes on two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reranker_serve import loader
from reranker_serve.backends.cpu.nodes import by_node, divide, own_cores, pin
from reranker_serve.backends.torch.backend import TorchBackend
from reranker_serve.errors import ModelError
from tests.checkpoints import load_scorer, save_cross_encoder

needs_two_cores = pytest.mark.skipif(len(own_cores()) < 2, reason="needs two cores, and a system that pins threads")


def nodes(folder: Path, *lists: str) -> Path:
    for number, text in enumerate(lists):
        (folder / f"node{number}").mkdir()
        (folder / f"node{number}" / "cpulist").write_text(text + "\n")
    (folder / "node_online").write_text("")
    return folder


def cores(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def test_cores_are_found_by_node(tmp_path: Path) -> None:
    tree = nodes(tmp_path, "0-1,4-5", "2-3,6", "")
    assert by_node(cores(0, 1, 2, 3, 4, 5, 6), tree) == [cores(0, 1, 4, 5), cores(2, 3, 6)]
    assert by_node(cores(2, 6), tree) == [cores(2, 6)]
    assert by_node(cores(0, 6), tree) == [cores(0), cores(6)]


def test_of_no_nodes_all_cores_are_one(tmp_path: Path) -> None:
    assert by_node(cores(0, 1), tmp_path) == [cores(0, 1)]
    assert by_node(cores(0, 1), tmp_path / "missing") == [cores(0, 1)]
    assert by_node(cores(0, 1, 8), nodes(tmp_path, "0-1")) == [cores(0, 1, 8)]
    assert by_node(frozenset(), tmp_path) == [frozenset()]


def test_lanes_are_nodes_or_share_them_or_have_several() -> None:
    two = [cores(0, 1, 4, 5), cores(2, 3, 6, 7)]
    assert divide(two, 2) == two
    assert divide(two, 4) == [two[0], two[0], two[1], two[1]]
    assert divide(two, 3) == [two[0], two[0], two[1]]
    assert divide(two, 1) == [cores(*range(8))]
    four = [cores(0), cores(1), cores(2), cores(3, 4)]
    assert divide(four, 2) == [cores(0, 1), cores(2, 3, 4)]
    assert divide(four, 3) == [cores(0), cores(1), cores(2, 3, 4)]


def test_on_one_node_no_lane_has_cores_of_its_own() -> None:
    """Another program that runs on a lane's only core would hold it up."""
    assert divide([cores(0, 1, 2, 3)], 2) == [None, None]


@needs_two_cores
def test_a_thread_is_pinned_with_those_it_starts_and_no_other() -> None:
    first = min(own_cores())

    def pinned() -> list[frozenset[int]]:
        pin(cores(first))
        with ThreadPoolExecutor(1) as inner:
            return [own_cores(), inner.submit(own_cores).result()]

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(pinned).result() == [cores(first)] * 2
    assert len(own_cores()) > 1


@needs_two_cores
def test_two_lanes_compute_what_one_does_each_on_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_cross_encoder("bert", tmp_path)
    one = load_scorer(folder)
    halves = [frozenset([core]) for core in sorted(own_cores())[:2]]
    monkeypatch.setattr(loader.nodes, "by_node", lambda own: halves)
    two = load_scorer(folder, cpu_lanes="2", cpu_threads="2")
    assert (len(one.backends), len(two.backends), len(two.warm_ups)) == (1, 2, 2)
    assert two.device == "cpu"
    documents = ["plants", "the stock market fell " * 8, "sun light and water", ""]
    items = one.family.encode("how do plants make food", documents, max_length=120, instruction=None).items
    expected = one.backend.forward(items)
    seen: list[frozenset[int]] = []

    def compute(backend: TorchBackend) -> object:
        backend.enter_thread()
        seen.append(own_cores())
        return backend.forward(items)

    for backend in two.backends:
        assert isinstance(backend, TorchBackend)
        with ThreadPoolExecutor(1) as thread:
            np.testing.assert_array_equal(thread.submit(compute, backend).result(), expected)
    assert seen == halves


def test_more_lanes_than_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"RERANKER_CPU_LANES=2, but there are 1 thread"):
        load_scorer(save_cross_encoder("bert", tmp_path), cpu_lanes="2", cpu_threads="1")


def test_lanes_of_a_cpu_keep_nobody_from_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch sees \d+ CUDA"):
        load_scorer(save_cross_encoder("bert", tmp_path), device="cuda:99", cpu_lanes="2", cpu_threads="1")
