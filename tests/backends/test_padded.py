"""The padded path of language models: what it must not take for granted about memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from reranker_serve.backends.torch.architectures import ARCHITECTURES
from reranker_serve.backends.torch.padded import PaddedLanguageModel
from reranker_serve.readouts import NextTokenReadout
from reranker_serve.types import EncodedItem
from tests.checkpoints import save_language_model


def test_each_copy_of_a_prefix_counts_in_a_bucket(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_language_model("qwen3", tmp_path)).eval()
    random = np.random.default_rng(0)
    prefix = random.integers(5, 60, 100, dtype=np.int32)
    items = [EncodedItem(random.integers(5, 60, 10, dtype=np.int32), 10, prefix) for _ in range(20)]
    held = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, named: held.append(named["attention_mask"].numel()) if "attention_mask" in named else None,
        with_kwargs=True,
    )
    with torch.inference_mode():
        rows = PaddedLanguageModel(model, ARCHITECTURES["qwen3"], NextTokenReadout((5, 6)), 400)(items)
    assert rows.shape == (20, 2)
    assert held == [330] * 6 + [220]
