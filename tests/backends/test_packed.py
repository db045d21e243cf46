"""Packed attention against the textbook formula, and the check that guards it at start."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from reranker_serve.backends.packed import Segments, packed_attention
from reranker_serve.backends.torch import TorchBackend
from reranker_serve.types import ClassifierReadout, EncodedItem
from tests.checkpoints import save_cross_encoder

LENGTHS = [1, 7, 2, 30, 4, 5]


def items(lengths: list[int]) -> list[EncodedItem]:
    random = np.random.default_rng(0)
    return [EncodedItem(random.integers(5, 60, length, dtype=np.int32), length) for length in lengths]


def textbook(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """softmax(q k^T scale) v over the whole row, with everything but one's own segment masked."""
    bounds = Segments.of(items(LENGTHS), torch.device("cpu")).bounds
    segment = torch.cat([torch.full((stop - start,), i) for i, (start, stop) in enumerate(pairwise(bounds))])
    position = torch.arange(bounds[-1])
    seen = segment[:, None] == segment[None, :]
    if window is not None:
        seen &= (position[:, None] - position[None, :]).abs() < window
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("window", [None, 1, 3, 30, 100])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_packed_attention_is_attention_within_each_segment(
    dtype: torch.dtype, tolerance: float, window: int | None, scaling: float | None
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, sum(LENGTHS), 8).to(dtype) for _ in range(3))
    segments = Segments.of(items(LENGTHS), torch.device("cpu"))
    got, weights = packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling, segments=segments, sliding_window=window
    )
    expected = textbook(query.float(), key.float(), value.float(), scaling or 8**-0.5, window)
    assert weights is None
    assert got.dtype is dtype
    torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=0)


class ShiftedBert(BertForSequenceClassification):
    """An architecture that says it is BERT and computes something else after the encoder."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> object:
        output = super().forward(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        output.logits = output.logits + 1
        return output


def test_a_model_that_packing_computes_differently_runs_padded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_cross_encoder("bert", tmp_path)
    ordinary = TorchBackend(
        AutoModelForSequenceClassification.from_pretrained(folder).eval(), ClassifierReadout(), "cpu"
    )
    shifted = TorchBackend(ShiftedBert.from_pretrained(folder).eval(), ClassifierReadout(), "cpu")
    assert ordinary.attention.startswith("packed")
    assert shifted.attention.startswith("padded")
    assert "packed and padded differ" in caplog.text
    batch = items(LENGTHS)
    np.testing.assert_allclose(shifted.forward(batch), ordinary.forward(batch) + 1, atol=1e-5, rtol=0)
