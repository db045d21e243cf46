"""A loaded model is tried out: are its numbers finite, and are they the same packed and padded?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reranker_serve.backends.torch.architectures import architecture_of
from reranker_serve.backends.torch.attention import choose_attention, takes_attention, use_attention
from reranker_serve.backends.torch.packed import PackedForward, RowLength, exact_length
from reranker_serve.backends.torch.padded import PaddedForward, PaddedLanguageModel
from reranker_serve.backends.torch.rotary import rotate_as_before, rotate_together
from reranker_serve.readouts import PooledReadout, Readout, VectorsReadout
from reranker_serve.types import EncodedItem, FloatArray

logger = logging.getLogger(__name__)

_PADDED_BUCKET_TOKENS = 4096
# Tokens of the longest sequence that is tried, and positions it leaves free: some architectures count from 2.
_LONGEST, _SPARE = 160, 8
# Packed and padded sums differ in the last bits only; sequences that see each other differ by far more.
_AGREEMENT = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}

Forward = Callable[[Sequence[EncodedItem]], Tensor]
# Where it is packed, in rows of these lengths.
MakeForward = Callable[[RowLength], Forward]


class NotFinite(Exception):
    """The model gives NaN or infinity: its numbers are too large for its precision, or its weights are damaged."""


def require_finite(rows: Tensor | FloatArray) -> None:
    if not torch.as_tensor(rows).isfinite().all():
        raise NotFinite("numbers that are not finite")


def choose_forward(model: Any, readout: Readout, device: str, layers: nn.Module) -> tuple[MakeForward, str]:
    """Packed where the model can be packed and computes the same numbers so; else padded. Raises `NotFinite`.

    `layers` are those of the readout. The forward gives one row an item, or for vectors one each.
    """
    architecture = architecture_of(model.config)
    padded: Forward
    if architecture is not None and architecture.causal:
        padded = PaddedLanguageModel(model, architecture, readout, _PADDED_BUCKET_TOKENS, layers)
    else:
        padded = PaddedForward(model, readout, _PADDED_BUCKET_TOKENS, layers)
    probe = probe_items(model.config, readout)
    with torch.inference_mode():
        expected = padded(probe)
    require_finite(expected)
    fallback = model.config._attn_implementation
    if architecture is None or device == "mps" or not takes_attention(model):
        return lambda _: padded, f"padded {fallback}"
    make = partial(PackedForward, model, architecture, readout, layers)
    try:
        name, attention = choose_attention(device)
        use_attention(model, name, attention)
        rotate_together(model)
        with torch.inference_mode():
            got = make(exact_length)(probe)
        difference = _difference(got, expected, readout)
        reason = f"packed and padded differ by {difference:.3g}"
        if difference <= _AGREEMENT[next(model.parameters()).dtype]:
            return make, f"packed {name}"
    except Exception as error:  # any failure here means: this model or device is not packable
        reason = f"{type(error).__name__}: {error}"
    logger.warning("attention runs padded, which is slower: %s", reason)
    model.set_attn_implementation(fallback)
    rotate_as_before(model)
    return lambda _: padded, f"padded {fallback}"


def _difference(got: Tensor, expected: Tensor, readout: Readout) -> float:
    if isinstance(readout, PooledReadout | VectorsReadout):
        got, expected = (torch.nn.functional.normalize(rows, dim=1) for rows in (got, expected))
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def probe_items(config: Any, readout: Readout) -> list[EncodedItem]:
    """Random items; a causal model's begin as texts do, where activations are the largest, and two share a prefix."""
    items = random_items(config, readout)
    if not _causal(config):
        return items
    begin = getattr(config, "bos_token_id", None)
    if begin is not None and begin < config.vocab_size:
        for item in items:
            item.ids[0] = begin
    return [*items[:2], *(replace(item, prefix=items[1].ids) for item in items[2:])]


def random_items(config: Any, readout: Readout, seed: int = 0) -> list[EncodedItem]:
    """A few sequences of different lengths, with ids and positions that the model has."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or _LONGEST + _SPARE
    longest = max(1, min(_LONGEST, positions - _SPARE))
    lengths = [min(length, longest) for length in (longest, 3, max(4, longest // 2), max(4, longest // 5))]
    low, high = min(10, text.vocab_size - 2), text.vocab_size - 1
    random = np.random.default_rng(seed)
    ids = [random.integers(low, high, size=length, dtype=np.int32) for length in lengths]
    if not isinstance(readout, VectorsReadout):
        return [EncodedItem(own, len(own) // 2) for own in ids]
    unseen = [0 if _causal(config) else len(own) // 3 for own in ids]
    return [
        EncodedItem(own, len(own) // 2, read=np.arange(0, len(own), 2, dtype=np.int32), unseen=hidden)
        for own, hidden in zip(ids, unseen, strict=True)
    ]


def _causal(config: Any) -> bool:
    architecture = architecture_of(config)
    return architecture is not None and architecture.causal
