"""A list's prompt has the published ids, its blocks the published sizes; what cannot be served is told in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reranker_serve.encoding import _least_tokens
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.listwise import Listwise, block_sizes
from reranker_serve.families.registry import build_family, read_checkpoint
from reranker_serve.readouts import VectorsReadout
from tests.checkpoints import qwen, real_tokenizer, save_listwise
from tests.conftest import fake_settings
from tests.families.test_yes_no_ids import TEXTS
from tests.published_listwise import prompt, shortened

POSITIONS = 131_072


class Case:
    """A tokenizer, and the family with it."""

    def __init__(self, real: bool, folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(real_tokenizer("qwen3")) if real else qwen()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|embed_token|>", "<|rerank_token|>"]})
        tokenizer.save_pretrained(folder)
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
        self.family = Listwise(folder, VectorsReadout(8), POSITIONS, 2048, None)


@pytest.fixture(scope="module", params=["small", "real"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param == "real", tmp_path_factory.mktemp("tokenizer"))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=14), st.one_of(st.none(), TEXTS))
def test_the_ids_are_those_of_the_published_prompt(
    case: Case, query: str, documents: list[str], instruction: str | None
) -> None:
    (item,) = case.family.encode(query, documents, max_length=2048, instruction=instruction).items
    assert item.ids.tolist() == case.tokenizer(prompt(query, documents, instruction))["input_ids"]
    assert item.read is not None
    marked = case.tokenizer.convert_ids_to_tokens(item.ids[item.read].tolist())
    assert marked == ["<|embed_token|>"] * len(documents) + ["<|rerank_token|>"]


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=3).map("".join), st.lists(TEXTS, min_size=1, max_size=3), st.integers(1, 30))
def test_texts_that_are_cut_have_the_published_ids(case: Case, query: str, documents: list[str], most: int) -> None:
    found = case.family.encode(query * 50, documents, max_length=most, instruction=None)
    asked, *texts = (shortened(case.tokenizer, text, 512)[0] for text in (query * 50, *documents))
    kept = [shortened(case.tokenizer, text, most)[0] for text in texts]
    assert found.items[0].ids.tolist() == case.tokenizer(prompt(asked, kept))["input_ids"]
    assert found.query_truncated == (len(case.tokenizer(query * 50)["input_ids"]) > 512)
    assert found.truncated == tuple(len(case.tokenizer(text)["input_ids"]) > most for text in documents)


@pytest.mark.parametrize(
    ("lengths", "capacity", "most", "sizes"),
    [
        ([0], 100, 9, [1]),
        ([5] * 125, 10_000, 9, [125]),
        ([5] * 300, 10_000, 9, [125, 125, 50]),
        ([900] * 20, 15_360, 900, [17, 3]),
        ([900] * 20, 15_360, 2048, [15, 5]),
        ([10, 80, 10, 10], 100, 9, [3, 1]),
        ([10, 81, 10, 10], 100, 9, [2, 2]),
        ([9, 9, 9], 9, 9, [1, 1, 1]),
    ],
)
def test_a_block_ends_where_the_longest_document_might_not_fit(
    lengths: list[int], capacity: int, most: int, sizes: list[int]
) -> None:
    assert block_sizes(lengths, capacity, most) == sizes


def test_no_list_costs_less_than_its_least_tokens(case: Case) -> None:
    least = _least_tokens(case.family)
    assert 5 <= least <= 35
    for documents in ([""], ["", ""], ["", "\n", " "] * 50):
        found = case.family.encode("", documents, max_length=2048, instruction=None)
        assert sum(map(len, found.items)) >= len(documents) * least
        assert all(tokens >= least for block in found.blocks for tokens in block)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_listwise(tmp_path_factory.mktemp("listwise"))


def change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_tensors(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path) | {f"projector.{name[1:]}.weight": tensor for name, tensor in values.items()}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)

    return change


def without_markers(folder: Path) -> None:
    qwen().save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (change_config(layer_types=["full_attention", "sliding_attention"]), "layer_types tells of a sliding window"),
        (change_config(layer_types=28), "layer_types tells of a sliding window"),
        (change_config(use_sliding_window=True), "use_sliding_window tells of a sliding window"),
        (change_config(model_type="qwen2"), "model_type is 'qwen2'; a JinaForRanking may be qwen3"),
        (change_config(max_position_embeddings=1500), "max_position_embeddings is 1500, of which the prompt"),
        (change_tensors(_0=None), "no file of weights has projector.0.weight"),
        (change_tensors(_0=torch.zeros(32, 60)), "projector.0.weight is [32, 60], but what comes before it gives 64"),
        (change_tensors(_2=torch.zeros(24, 31)), "projector.2.weight is [24, 31], but what comes before it gives 32"),
        (change_tensors(_2=torch.zeros(24)), "projector.2.weight is [24], but what comes before it gives 32"),
        (without_markers, "its tokenizer has no single token for <|embed_token|> and <|rerank_token|>"),
    ],
)
def test_what_cannot_be_served_is_told(change: Callable[[Path], None], line: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError) as raised:
        build_family(read_checkpoint(folder), fake_settings())
    assert line in str(raised.value)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_refusal_of_a_sliding_window_names_the_model_that_works(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    change_config(layer_types=["sliding_attention"])(folder)
    with pytest.raises(ModelError, match="serve jinaai/jina-reranker-v3"):
        read_checkpoint(folder)


def test_a_prompt_cannot_be_chosen(saved: Path) -> None:
    with pytest.raises(SettingsError, match="RERANKER_PROMPT=qwen3-reranker"):
        build_family(read_checkpoint(saved), fake_settings(prompt="qwen3-reranker"))


def test_max_length_counts_the_tokens_of_one_document(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    assert build_family(checkpoint, fake_settings()).max_length_bounds == (1, 2048)
    assert build_family(checkpoint, fake_settings(max_length="300")).max_length_bounds == (1, 300)
    longest = build_family(checkpoint, fake_settings(max_length="16384")).max_length_bounds[1]
    assert 14_000 < longest < 16_384 - 2 * 512


def test_weights_in_several_files_are_found(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    projector = {name: tensor for name, tensor in tensors.items() if name.startswith("projector")}
    (folder / "model.safetensors").unlink()
    parts = [{name: tensors[name] for name in tensors if name not in projector}, projector]
    index = {}
    for number, part in enumerate(parts, 1):
        save_file(part, folder / f"model-0000{number}-of-00002.safetensors")
        index |= dict.fromkeys(part, f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    readout = build_family(read_checkpoint(folder), fake_settings()).readout
    assert isinstance(readout, VectorsReadout)
    assert [layer.weights for layer in readout.layers] == ["model-00002-of-00002.safetensors"] * 2
    assert [layer.outputs for layer in readout.layers] == [32, 24]
