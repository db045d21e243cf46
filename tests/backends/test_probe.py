"""What a loaded model is tried out with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma3Config,
    GemmaConfig,
    PreTrainedConfig,
    Qwen2Config,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from reranker_serve.backends.torch.backend import TorchBackend
from reranker_serve.backends.torch.probe import probe_items, random_items
from reranker_serve.readouts import ClassifierReadout

ONE = ClassifierReadout()
TINY = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16, "num_labels": 1}


@pytest.mark.parametrize("positions", [1, 5, 8, 9, 12])
@pytest.mark.parametrize(
    ("config", "model"),
    [(BertConfig, BertForSequenceClassification), (XLMRobertaConfig, XLMRobertaForSequenceClassification)],
)
def test_a_model_of_few_positions_is_loaded(config: Any, model: Any, positions: int) -> None:
    first = 2 if config is XLMRobertaConfig else 0
    tiny = config(**TINY, vocab_size=12, max_position_embeddings=first + positions)
    backend = TorchBackend(model(tiny).eval(), ClassifierReadout(), "cpu")
    assert backend.attention.startswith("packed")


def test_lengths_and_ids_are_those_the_model_has() -> None:
    nested = Gemma3Config()
    assert not hasattr(nested, "vocab_size")
    for config in (BertConfig(), nested, PreTrainedConfig(vocab_size=7)):
        items = random_items(config, ONE)
        assert [len(item) for item in items] == [160, 3, 80, 32]
        assert max(int(item.ids.max()) for item in items) < config.get_text_config().vocab_size
    assert not np.array_equal(random_items(nested, ONE)[0].ids, random_items(nested, ONE, seed=1)[0].ids)


def test_a_causal_models_items_share_a_prefix_and_begin_like_its_texts() -> None:
    first, second, third, fourth = probe_items(GemmaConfig(), ONE)
    assert {int(item.ids[0]) for item in (first, second, third, fourth)} == {2}
    assert (first.prefix, second.prefix) == (None, None)
    assert third.prefix is second.ids
    assert fourth.prefix is second.ids
    unknown = probe_items(Qwen2Config(vocab_size=100, bos_token_id=151_643), ONE)
    assert max(int(item.ids.max()) for item in unknown) < 100


def test_an_encoders_items_are_random() -> None:
    assert all(item.prefix is None for item in probe_items(XLMRobertaConfig(), ONE))
    assert torch.tensor([item.ids[0] for item in probe_items(XLMRobertaConfig(), ONE)]).min() >= 10
