"""Weights that are mapped and converted piece by piece compute what weights converted at once do, in less memory."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from reranker_serve.backends.cpu.mapped_weights import MappedFiles, StoredEmbedding
from reranker_serve.backends.torch.weights import load_weights, stored_precision
from reranker_serve.checkpoint import read_folder
from reranker_serve.readouts import ClassifierReadout
from tests.checkpoints import (
    CROSS_ENCODERS,
    LANGUAGE_MODELS,
    load_scorer,
    save_cross_encoder,
    save_language_model,
)
from tests.memory import needs_statm
from tests.remote_layouts import as_flash_xlm_roberta, as_new_impl

TEXTS = ["plants", "the stock market fell " * 8, "sun light and water", "whale " * 20]


def store(folder: Path, dtype: torch.dtype) -> Path:
    """Rewrite a checkpoint's files as if it had been published in `dtype`."""
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
    return folder


@pytest.mark.parametrize("name", [*CROSS_ENCODERS, *LANGUAGE_MODELS])
def test_a_checkpoint_in_another_precision_scores_as_if_converted_at_once(name: str, tmp_path: Path) -> None:
    save = save_cross_encoder if name in CROSS_ENCODERS else save_language_model
    half = load_scorer(store(save(name, tmp_path), torch.bfloat16))
    longest = half.family.max_length_bounds[1]
    items = half.family.encode("how do plants make food", TEXTS, max_length=longest, instruction=None).items
    found = half.backend.forward(items)
    full = load_scorer(store(tmp_path, torch.float32))  # bfloat16 is rounded already
    assert (half.backend.dtype, full.backend.dtype) == ("float32", "float32")
    assert half.backend.attention == full.backend.attention
    assert np.ptp(found) > 0.01
    # Products of numbers that lie otherwise in memory are added up in another order.
    np.testing.assert_allclose(found, full.backend.forward(items), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("declared", "precision"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float32"}, "float32"),  # what was declared counts, not the files
        ({"dtype": None, "text_config": {"dtype": "float32"}}, "float32"),
        ({"text_config": {"torch_dtype": "bfloat16"}}, "bfloat16"),
        ({"dtype": {"vision_config": "float32"}}, "float16"),
        ({"torch_dtype": "auto"}, "float16"),
        ({}, "float16"),
    ],
)
def test_what_a_checkpoint_was_saved_in_is_declared_or_seen_in_its_files(
    declared: dict[str, object], precision: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(declared))
    save_file({"norm": torch.ones(8), "positions": torch.arange(9)}, tmp_path / "model-1.safetensors")
    save_file({"layer": torch.ones(4, 4).half(), "norm": torch.ones(())}, tmp_path / "model-2.safetensors")
    assert stored_precision(read_folder(tmp_path)) == precision


@pytest.mark.parametrize("content", [b"", b"broken"])
def test_of_files_that_cannot_be_read_no_precision_is_known(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert stored_precision(read_folder(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(content)
    assert stored_precision(read_folder(tmp_path)) is None
    save_file({"ids": torch.arange(9)}, tmp_path / "model.safetensors")
    assert stored_precision(read_folder(tmp_path)) is None


@needs_statm
def test_the_table_of_embeddings_stays_in_its_file(tmp_path: Path) -> None:
    store(save_cross_encoder("bert", tmp_path), torch.float16)
    model = load_weights(read_folder(tmp_path), ClassifierReadout(), torch.float32, "cpu")
    assert isinstance(model.get_input_embeddings(), StoredEmbedding)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    same = load_weights(read_folder(tmp_path), ClassifierReadout(), torch.float16, "cpu")
    assert type(same.get_input_embeddings()) is nn.Embedding


@needs_statm
@pytest.mark.parametrize(("name", "rewrite"), [("xlm-roberta", as_flash_xlm_roberta), ("gte", as_new_impl)])
def test_tensors_that_are_called_otherwise_stay_in_their_file_too(
    name: str, rewrite: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = store(rewrite(save_cross_encoder(name, tmp_path)), torch.bfloat16)
    model = load_weights(read_folder(folder), ClassifierReadout(), torch.bfloat16, "cpu")
    files = MappedFiles([folder / "model.safetensors"])
    copied = [name for name, part in model.named_parameters() if not files.hold(part.data_ptr(), part.nbytes)]
    assert not copied
    model = load_weights(read_folder(folder), ClassifierReadout(), torch.float32, "cpu")
    assert isinstance(model.get_input_embeddings(), StoredEmbedding)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_row_is_read_from_the_file_once() -> None:
    stored = torch.arange(40.0).reshape(10, 4)
    read: list[torch.Tensor] = []
    table = StoredEmbedding(stored, torch.bfloat16, read.append)
    for ids in ([[3, 3, 7]], [[7], [3]], [[3, 9]], [[0, 9]], [[9]]):
        rows = table(torch.tensor(ids))
        assert torch.equal(rows, stored.bfloat16()[torch.tensor(ids)])
    assert len(read) == 3
    assert all(part is stored for part in read)


def test_where_a_file_lies_is_read_from_the_systems_list(tmp_path: Path) -> None:
    weights, link = tmp_path / "one two.safetensors", tmp_path / "link.safetensors"
    weights.touch()
    link.symlink_to(weights)
    maps = tmp_path / "maps"
    maps.write_text(
        f"1000-3000 rw-p 00000000 fe:00 21    {weights.resolve()}\n"
        "3000-5000 rw-p 00000000 00:00 0\n"
        "5000-6000 r-xp 00000000 fe:00 22    /usr/lib/other.so\n"
    )
    files = MappedFiles([link], maps)
    assert files.hold(0x1000, 0x2000)
    assert files.hold(0x1010, 16)
    assert not files.hold(0x2FF0, 32)
    assert not files.hold(0x5000, 16)
    with pytest.raises(AssertionError):
        files.give_back(0x3000, 0x1000)
    assert not MappedFiles([link], tmp_path / "elsewhere").hold(0x1000, 16)


_PEAK = """
import sys, re, torch
from pathlib import Path
from reranker_serve.backends.torch.weights import load_weights
from reranker_serve.checkpoint import read_folder
from reranker_serve.readouts import ClassifierReadout
small, large = (read_folder(Path(folder)) for folder in sys.argv[1:3])
load_weights(small, ClassifierReadout(), torch.bfloat16, "cpu")  # imports, and the libraries' own memory
Path("/proc/self/clear_refs").write_text("5")  # the peak so far
def kib(name): return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = kib("VmRSS")
model = load_weights(large, ClassifierReadout(), torch.bfloat16, "cpu")
print(kib("VmHWM") - before, kib("VmRSS") - before)
with torch.inference_mode():
    model(torch.arange(1000, 40000, 1000)[None])
print(kib("VmRSS") - before)
"""


def _save_bert(folder: Path, words: int, hidden: int) -> None:
    config = BertConfig(
        vocab_size=words, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=8, intermediate_size=4 * hidden
    )
    BertForSequenceClassification(config).save_pretrained(folder)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads memory from /proc")
def test_loading_holds_neither_the_files_nor_the_table_in_memory(tmp_path: Path) -> None:
    _save_bert(tmp_path / "small", 100, 64)
    _save_bert(tmp_path / "large", 60_000, 1024)  # 246 MB of words, 105 MB of layers in float32
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "small"), str(tmp_path / "large")],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, loaded, served = (int(number) / 1024 for number in done.stdout.split())
    layers = 25.2 * 2 * 1.05  # in bfloat16, MiB
    assert loaded < layers + 20, "more than the layers stayed"
    assert peak < layers + 60, "more than the layers and one tensor of them was there"
    assert served < loaded + 40
