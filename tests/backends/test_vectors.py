"""Vectors at positions that are read: packed as padded, whoever attends to whom, and in every precision."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from reranker_serve.backends.cpu.products import check_quantization
from reranker_serve.backends.torch import attention_varlen
from reranker_serve.backends.torch.architectures import ARCHITECTURES
from reranker_serve.backends.torch.attention import choose_attention, use_attention
from reranker_serve.backends.torch.attention_cpu import attend_per_segment
from reranker_serve.backends.torch.attention_varlen import attend_varlen
from reranker_serve.backends.torch.backend import CudaBackend, TorchBackend
from reranker_serve.backends.torch.layout import Layout
from reranker_serve.backends.torch.machine import inspect_machine
from reranker_serve.backends.torch.packed import PackedForward
from reranker_serve.backends.torch.padded import PaddedForward, PaddedLanguageModel
from reranker_serve.engine.kinds import OverlappingBackend
from reranker_serve.errors import ModelError
from reranker_serve.readouts import VectorsReadout
from reranker_serve.types import EncodedItem
from tests.backends.test_packed import CPU, items, set_block, textbook
from tests.checkpoints import load_scorer, save_language_model
from tests.families.test_late_interaction_parity import DOCUMENTS, FIXED, MARKED, QUERY, max_sims, save_multi_vector
from tests.machine import needs_bfloat16

LENGTHS = [1, 7, 2, 30, 4, 20]
UNSEEN = [0, 3, 1, 25, 0, 0]
READOUT = VectorsReadout(48)


def with_unseen(read: bool = False) -> list[EncodedItem]:
    """Items to whose last tokens nobody attends; of each, every third vector is read, and its last."""
    return [
        dataclasses.replace(
            item,
            unseen=unseen,
            read=np.unique([*range(0, len(item), 3), len(item) - 1]).astype(np.int32) if read else None,
        )
        for item, unseen in zip(items(LENGTHS, [None] * len(LENGTHS)), UNSEEN, strict=True)
    ]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("window", [None, 3, 8, 30])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("block", [1024, 4])
def test_nobody_attends_to_what_is_unseen(
    dtype: torch.dtype,
    tolerance: float,
    window: int | None,
    key_heads: int,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_block(block, monkeypatch)
    torch.manual_seed(0)
    layout = Layout.of(with_unseen(), False, CPU)
    tokens = layout.spans[-1].stop
    query, key, value = (torch.randn(1, heads, tokens, 8).to(dtype) for heads in (4, key_heads, key_heads))
    hidden = torch.cat(
        [torch.arange(length) >= length - unseen for length, unseen in zip(LENGTHS, UNSEEN, strict=True)]
    )
    expected = textbook(query.float(), key.float(), value.float(), 8**-0.5, window, layout, hidden)
    key[:, :, hidden] = value[:, :, hidden] = 1e4  # so much that the least share of it would show
    got = attend_per_segment(query[0], key[0], value[0], 8**-0.5, layout, window)[None]
    # Who has nothing to attend to gets nothing.
    torch.testing.assert_close(got.float(), expected.nan_to_num(), atol=tolerance, rtol=0)


def varlen(q: Tensor, k: Tensor, v: Tensor, *bounds: Any, scale: float, window_size: tuple[int, int]) -> Tensor:
    """What the kernel of GPUs computes: each query's last row stands at the last key of its own."""
    of_queries, of_keys = (bound.tolist() for bound in bounds[:2])
    parts = []
    for number in range(len(of_queries) - 1):
        queries, keys = slice(*of_queries[number : number + 2]), slice(*of_keys[number : number + 2])
        rows, columns = queries.stop - queries.start, keys.stop - keys.start
        ahead = torch.arange(columns)[None] - (torch.arange(rows) + columns - rows)[:, None]
        left, right = (reach if reach >= 0 else 10_000 for reach in window_size)
        hidden = (ahead > right) | (-ahead > left)
        weights = torch.einsum("qhd,khd->hqk", q[queries], k[keys]) * scale
        shares = torch.softmax(weights.masked_fill(hidden, float("-inf")), dim=-1)
        parts.append(torch.einsum("hqk,khd->qhd", shares, v[keys]))
    return torch.cat(parts)


@pytest.mark.parametrize("window", [None, 3, 8, 25, 30])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_kernel_of_gpus_is_given_what_is_seen(
    window: int | None, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", varlen)
    torch.manual_seed(0)
    layout = Layout.of(with_unseen(), False, CPU)
    tokens = layout.spans[-1].stop
    states = [torch.randn(heads, tokens, 8) for heads in (4, key_heads, key_heads)]
    expected = attend_per_segment(*states, 8**-0.5, layout, window)
    got = attend_varlen(*states, 8**-0.5, layout, window)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert"])
def test_packed_and_padded_read_the_same_vectors(name: str, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, name, changes={"local_attention": 16} if name == "modernbert" else None)
    batch = with_unseen(read=True)
    model = AutoModel.from_pretrained(folder)
    layers = nn.Linear(48, 5)
    readout = VectorsReadout(5)
    with torch.inference_mode():
        expected = PaddedForward(model, readout, 64, layers)(batch)
        use_attention(model, *choose_attention("cpu"))
        got = PackedForward(model, ARCHITECTURES[name], readout, layers)(batch)
    assert got.shape == (sum(len(item.read) for item in batch if item.read is not None), 5)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(len(got)))


def test_a_causal_model_reads_vectors_behind_a_prefix(tmp_path: Path) -> None:
    folder = save_language_model("qwen3", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    readout = VectorsReadout(64, normalized=False)
    prefixed = items(LENGTHS, [None, 0, 1, 0, None, 0])
    batch = [dataclasses.replace(item, read=np.arange(0, len(item), 2, dtype=np.int32)) for item in prefixed]
    with torch.inference_mode():
        padded = PaddedLanguageModel(model, ARCHITECTURES["qwen3"], readout, 64)(batch)
        alone = [
            model.model(
                torch.from_numpy(np.concatenate([[] if item.prefix is None else item.prefix, item.ids]))[None].long()
            ).last_hidden_state[0, 0 if item.prefix is None else len(item.prefix) :][::2]
            for item in batch
        ]
        use_attention(model, *choose_attention("cpu"))
        got = PackedForward(model, ARCHITECTURES["qwen3"], readout, nn.Identity())(batch)
    torch.testing.assert_close(padded, torch.cat(alone), atol=1e-4, rtol=0)
    torch.testing.assert_close(got, torch.cat(alone), atol=1e-4, rtol=0)


def test_each_item_gets_its_own_vectors(tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path)
    backend = TorchBackend(AutoModel.from_pretrained(folder).eval(), READOUT, "cpu")
    batch = with_unseen(read=True)
    together = backend.forward(batch)
    assert isinstance(together, list)
    for vectors, item in zip(together, batch, strict=True):
        assert item.read is not None
        assert vectors.shape == (len(item.read), 48)
        np.testing.assert_allclose(backend.forward([item])[0], vectors, atol=1e-5)
    device = CudaBackend(AutoModel.from_pretrained(folder).eval(), READOUT, "cpu")
    assert isinstance(device, OverlappingBackend)
    for vectors, same in zip(together, device.begin(batch)(), strict=True):
        np.testing.assert_array_equal(vectors, same)


@needs_bfloat16
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_half_precision(name: str, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, name, expansion=FIXED, prompts=MARKED)
    half = load_scorer(folder, use_fp16="true")
    assert half.backend.dtype == "bfloat16"
    assert half.backend.attention.startswith("packed")
    expected = max_sims(load_scorer(folder), QUERY, DOCUMENTS)
    np.testing.assert_allclose(max_sims(half, QUERY, DOCUMENTS), expected, atol=0.02 * 32, rtol=0)


def test_8_bit_integers_are_refused() -> None:
    machine: Any = inspect_machine()
    with pytest.raises(ModelError, match="RERANKER_QUANTIZATION"):
        check_quantization("int8", "cpu", torch.float32, READOUT, machine)
