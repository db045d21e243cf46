"""Lanes of a CPU: cores are those of trees made here, and a real model computes on two."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

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


def siblings(folder: Path, threads: Sequence[str]) -> Path:
    for cpu, text in enumerate(threads):
        (folder / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(text)
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


def test_lanes_are_nodes_or_even_shares_of_them(tmp_path: Path) -> None:
    two = [cores(0, 1, 4, 5), cores(2, 3, 6, 7)]
    assert divide(two, 2, tmp_path) == two
    assert divide(two, 4, tmp_path) == [cores(0, 1), cores(4, 5), cores(2, 3), cores(6, 7)]
    assert divide(two, 1, tmp_path) == [cores(*range(8))]
    uneven = [cores(0, 1, 2), cores(3)]
    assert divide(uneven, 2, tmp_path) == uneven
    assert divide([cores(*range(10))], 3, tmp_path) == [cores(0, 1, 2), cores(3, 4, 5, 6), cores(7, 8, 9)]


def test_the_threads_of_a_core_are_not_divided(tmp_path: Path) -> None:
    tree = siblings(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert divide([cores(0, 1, 2, 3)], 2, tree) == [cores(0, 2), cores(1, 3)]


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
def test_two_lanes_compute_what_one_does_each_on_its_cores(tmp_path: Path) -> None:
    folder = save_cross_encoder("bert", tmp_path)
    one, two = load_scorer(folder), load_scorer(folder, cpu_lanes="2")
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
    assert seen[0].isdisjoint(seen[1])
    assert seen[0] | seen[1] == own_cores()


def test_more_lanes_than_cores_are_refused(tmp_path: Path) -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not tell of cores")
    with pytest.raises(ModelError, match=f"RERANKER_CPU_LANES=64, but there are {len(own_cores())} core"):
        load_scorer(save_cross_encoder("bert", tmp_path), cpu_lanes="64")
