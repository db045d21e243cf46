"""The arithmetic of the side-by-side benchmark, and a run of it that is too small to mean anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import AutoTokenizer

from benchmarks.contestants import build
from benchmarks.contestants.whole_model import whole_model
from benchmarks.pairs import Pair, Request, by_request, first_pairs, in_sorted_batches, pairs_of
from benchmarks.report import Measurement, Result, ShapeResult, WorkloadResult, markdown, ratios, row
from benchmarks.shapes import SHAPES, save
from benchmarks.workloads import WORKLOADS, Texts

ROOT = Path(__file__).parents[2]
REQUESTS = [Request("q", ("a", "bb", "ccc")), Request("r", ("dddd", "e"))]


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("RR_TEST_DATA")
    if not folder:
        pytest.skip("RR_TEST_DATA is not set: no real texts")
    return Path(folder)


def test_sorted_batches_give_scores_in_the_order_asked() -> None:
    batches: list[list[Pair]] = []

    def score(batch: list[Pair]) -> list[float]:
        batches.append(batch)
        return [float(len(document)) for _, document in batch]

    assert by_request(in_sorted_batches(pairs_of(REQUESTS), 2, score), REQUESTS) == [[1, 2, 3], [4, 1]]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [document for batch in batches for _, document in batch] == ["dddd", "ccc", "bb", "a", "e"]


@pytest.mark.parametrize(("pairs", "left"), [(9, [3, 2]), (4, [3, 1]), (3, [3]), (2, [2])])
def test_a_part_of_a_round_is_its_first_pairs(pairs: int, left: list[int]) -> None:
    kept = first_pairs(REQUESTS, pairs)
    assert [len(request.documents) for request in kept] == left
    assert pairs_of(kept) == pairs_of(REQUESTS)[:pairs]


def measured(peer: str, number: int, operations: float, seconds: float) -> Measurement:
    return Measurement(peer, number, 10, 100, operations, seconds)


def test_ratios_are_taken_within_a_round_and_of_the_work_done() -> None:
    base = "sentence-transformers"
    # Round 1 was slow for both; in round 2 the baseline did only half of the texts.
    measurements = [
        *(measured("p", number, 8.0, seconds) for number, seconds in enumerate((1.0, 10.0, 1.0))),
        *(measured(base, number, work, seconds) for number, (work, seconds) in enumerate([(8, 2), (8, 40), (4, 3)])),
    ]
    assert ratios("p", base, measurements) == (4.0, 2.0, 6.0)
    assert ratios("p", "nobody", measurements) is None
    found = row("p", {"precision": "bfloat16"}, measurements, {"float32": 1e-9, "bfloat16": 1.6e-8}, 0.1)
    assert found.ceiling_share == pytest.approx(0.5)
    assert found.pairs_per_second == 10


def test_the_page_compares_those_who_took_part() -> None:
    ours = [measured("ours-http", 0, 6.0, 1.0)]
    with_baseline = [*ours, measured("sentence-transformers", 0, 3.0, 1.0)]
    results = tuple(
        WorkloadResult(WORKLOADS[name], 1, 100.0, 1.0, (), tuple(found))
        for name, found in (("A", with_baseline), ("B", ours))
    )
    shape = ShapeResult(SHAPES["tiny"], {"float32": 100.0}, {}, results)
    page = markdown(Result("today", "python", "0", {}, (shape,)))
    assert "| | A | B |" in page
    assert "| ours-http to sentence-transformers | 2.00 (2.00-2.00) |  |" in page
    assert "infinity" not in page


def test_operations_are_those_of_the_published_shapes() -> None:
    assert SHAPES["xlm-r-base"].layer_parameters == pytest.approx(85e6, rel=0.01)
    assert SHAPES["xlm-r-large"].layer_parameters == pytest.approx(302e6, rel=0.01)
    assert SHAPES["qwen3-0.6b"].layer_parameters == pytest.approx(440e6, rel=0.01)
    assert SHAPES["xlm-r-base"].operations(100) == pytest.approx(2 * 85e6 * 100 + 4 * 12 * 100**2 * 768, rel=0.01)


def test_workloads_have_the_lengths_they_say(data: Path) -> None:
    texts = Texts(data / "tokenizers" / "xlm-roberta-base-reconstructed", data)
    for name, callers, count in (("A", 1, 32), ("B", 8, 16), ("C", 1, 100), ("D", 1, 16), ("E", 1, 1000)):
        assert (WORKLOADS[name].callers, WORKLOADS[name].documents) == (callers, count)
    for request in texts.round(WORKLOADS["C"], 0):
        assert all(abs(texts.tokens(document) - 30) <= 1 for document in request.documents)
    lengths = [length for request in texts.round(WORKLOADS["D"], 0) for length in texts.pair_tokens(request)]
    assert all(508 <= length <= 512 for length in lengths)
    mixed = sorted(length for request in texts.round(WORKLOADS["B"], 0) for length in texts.pair_tokens(request))
    assert mixed[0] < 60
    assert mixed[-1] > 350
    assert 150 < sum(mixed) / len(mixed) < 210


def test_a_round_is_the_same_for_everyone_and_no_other_round(data: Path) -> None:
    def documents(number: int) -> set[str]:
        texts = Texts(data / "tokenizers" / "xlm-roberta-base-reconstructed", data)
        return {document for request in texts.round(WORKLOADS["A"], number) for document in request.documents}

    assert documents(0) == documents(0)
    assert len(documents(0) & documents(1)) <= 2


def test_a_run_names_who_took_part_and_who_did_not(data: Path, tmp_path: Path) -> None:
    """Ours against plain transformers on a tiny model, and a peer whose environment cannot be installed."""
    options = ["--shape", "tiny", "--workload", "A", "--rounds", "1", "--seconds", "1", "--reference-pairs", "4"]
    options += ["--peer", "ours", "ours-file", "transformers", "infinity-http"]
    options += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "results"), "--name", "small"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", *options],
        cwd=ROOT,
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "RR_TEST_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (shape,) = json.loads((tmp_path / "results" / "small.json").read_text())["shapes"]
    assert "cannot be installed" in shape["absent"]["infinity-http"]
    (workload,) = shape["workloads"]
    assert {found["peer"] for found in workload["rows"]} == {"ours", "ours-file", "transformers"}
    exact = next(found for found in workload["rows"] if found["peer"] == "transformers")
    assert exact["difference"] < 1e-3 < workload["spread"]
    assert len({found["difference"] for found in workload["rows"] if found["peer"] != "transformers"}) == 1
    assert "| transformers | float32 |" in (tmp_path / "results" / "small.md").read_text()


def test_exact_scores_and_exported_graphs_have_a_head_in_modules(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(replace(SHAPES["ettin-17m"], layers=2), folder, data)
    pairs = pairs_of(REQUESTS)
    expected = CrossEncoder(str(folder), device="cpu").predict(pairs, activation_fn=nn.Identity(), batch_size=1)
    exact = build("exact", folder, "cross_encoder", 1, 512)
    exact.prepare()
    scores = [score for one in exact.score(REQUESTS) for score in one]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.ptp(expected) > 0.01, "equal scores would prove nothing"
    model, examples = whole_model(folder)
    texts = [[query for query, _ in pairs], [document for _, document in pairs]]
    inputs = AutoTokenizer.from_pretrained(folder)(*texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        graph = model(*(inputs[name] for name in examples))[:, 0].numpy()
    np.testing.assert_allclose(graph, expected, atol=1e-5)
    with pytest.raises(RuntimeError, match="does not serve this shape"):
        build("transformers", folder, "cross_encoder", 1, 512).prepare()


def test_a_graph_takes_the_token_types_of_bert(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(replace(SHAPES["minilm-l6"], layers=1), folder, data)
    _, examples = whole_model(folder)
    assert list(examples) == ["input_ids", "attention_mask", "token_type_ids"]


def test_packed_and_padded_are_measured_and_agree(tmp_path: Path) -> None:
    options = ["--only", "BERT", "Qwen3, prefix shared", "listwise", "MPNet", "--documents", "3", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.packing", *options, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["case"]: row for row in json.loads((tmp_path / "packing.json").read_text())["rows"]}
    padded_only = {name for name, row in rows.items() if row["packed"] is None}
    assert padded_only == {"MPNet"}
    assert {"BERT", "Qwen3, prefix shared", "listwise, Qwen3"} < set(rows)
    assert all(row["difference"] < 0.2 for name, row in rows.items() if name not in padded_only)
    assert "| MPNet |" in done.stdout


def test_the_server_is_measured(data: Path, tmp_path: Path) -> None:
    options = ["--only", "without-model", "overhead", "fairness-and-memory", "--requests", "3", "--shape", "tiny"]
    options += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "results")]
    # Without wrk, as on most machines.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.server", *options],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path), "RR_TEST_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "results" / "server.json").read_text())
    assert result["absent"] == {"without-model": "wrk is not installed"}
    figures = {figure["what"]: figure["values"] for figure in result["figures"]}
    assert len(figures) == 9
    assert all(value > 0 for values in figures.values() for value in values)
    beside, alone = figures["tiny: 10 documents beside 1,000"], figures["tiny: 10 documents alone"]
    assert len(beside) >= 1
    assert len(alone) == 20
    assert figures["tiny: resident at most while loading"] >= figures["tiny: resident after loading"]
    assert "| tiny: 10 documents alone |" in (tmp_path / "results" / "server.md").read_text()


def test_a_shared_query_is_counted_once() -> None:
    shape = SHAPES["qwen3-0.6b"]
    assert shape.operations_behind(0, 100) == shape.operations(100)
    shared = shape.operations(100) + 2 * shape.operations_behind(100, 150)
    per_token, per_pair = 2 * shape.layer_parameters, 4 * shape.layers * shape.attention
    assert shared == per_token * 400 + per_pair * (100**2 + 2 * 150 * 250)
