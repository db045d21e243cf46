"""Padding: for models and devices that packing does not serve (DeBERTa, MPNet, MPS)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from reranker_serve.backends.torch.architectures import Architecture, reader
from reranker_serve.backends.torch.layers import vector_reader
from reranker_serve.backends.torch.layout import by_prefix, to_device
from reranker_serve.readouts import HeadReadout, PooledReadout, Readout, VectorsReadout
from reranker_serve.types import EncodedItem, TokenArray

# A bucket closes where its shortest sequence would be more than half padding.
_LEAST_FILL = 0.5
_NO_LAYERS = nn.Identity()


class PaddedForward:
    """Forward passes over buckets of items of like length, to rows in float32: [items, readout.width], or [vectors,
    readout.width] where vectors are read, one item's after the other's."""

    def __init__(self, model: Any, readout: Readout, bucket_tokens: int, layers: nn.Module = _NO_LAYERS) -> None:
        self._model = model
        self._readout = readout
        self._layers = layers
        self._vectors = vector_reader(readout, layers) if isinstance(readout, VectorsReadout) else None
        self._bucket_tokens = bucket_tokens
        self._pad = max(0, model.config.pad_token_id or 0)
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._token_types = takes_types and (getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def __call__(self, items: Sequence[EncodedItem]) -> Tensor:
        rows: dict[int, Tensor] = {}
        for bucket in buckets([len(item) for item in items], self._bucket_tokens):
            part = self._forward([items[i] for i in bucket])
            rows.update(zip(bucket, torch.split(part, _counts([items[i] for i in bucket])), strict=True))
        return torch.cat([rows[i] for i in range(len(items))])

    def _forward(self, items: Sequence[EncodedItem]) -> Tensor:
        shape = (len(items), max(len(item) for item in items))
        ids = torch.full(shape, self._pad, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        types = torch.zeros(shape, dtype=torch.long)
        for row, item in enumerate(items):
            ids[row, : len(item)] = torch.from_numpy(item.ids.astype("int64"))
            mask[row, : len(item) - item.unseen] = 1
            types[row, item.second_segment : len(item)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._token_types:
            inputs["token_type_ids"] = types
        output = self._model(**{name: tensor.to(self._model.device) for name, tensor in inputs.items()})
        if isinstance(self._readout, PooledReadout | HeadReadout):
            pooled = _pool(output.last_hidden_state.float(), mask.to(self._model.device), self._readout.mode)
            return self._layers(pooled) if isinstance(self._readout, HeadReadout) else pooled
        if self._vectors:
            return self._vectors(_rows_read(output.last_hidden_state, items))
        logits: Tensor = output.logits.float()
        return logits


class PaddedLanguageModel:
    """The same for causal models: a prefix is computed once, its keys and values copied to each item.

    Padded on the right, which no causal model can see.
    """

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        readout: Readout,
        bucket_tokens: int,
        layers: nn.Module = _NO_LAYERS,
    ) -> None:
        self._base = model.base_model
        self._read = reader(model, architecture, readout, layers)
        self._bucket_tokens = bucket_tokens

    def __call__(self, items: Sequence[EncodedItem]) -> Tensor:
        rows: dict[int, Tensor] = {}
        for prefix, members in by_prefix(items):
            before = 0 if prefix is None else len(prefix)  # each item has a copy of its keys and values
            for bucket in buckets([before + len(items[i]) for i in members], self._bucket_tokens):
                chosen = [members[i] for i in bucket]
                part = self._forward(prefix, [items[i] for i in chosen])
                rows.update(zip(chosen, torch.split(part, _counts([items[i] for i in chosen])), strict=True))
        return torch.cat([rows[i] for i in range(len(items))])

    def _forward(self, prefix: TokenArray | None, items: Sequence[EncodedItem]) -> Tensor:
        device = self._base.device
        past, before = self._compute_prefix(prefix, len(items))
        lengths = torch.tensor([len(item) for item in items])
        longest = int(lengths.max())
        ids = torch.zeros((len(items), longest), dtype=torch.long)
        for row, item in enumerate(items):
            ids[row, : len(item)] = torch.from_numpy(item.ids.astype("int64"))
        mask = torch.arange(before + longest)[None, :] < before + lengths[:, None]
        output = self._base(
            input_ids=ids.to(device),
            attention_mask=mask.long().to(device),
            position_ids=torch.arange(before, before + longest, device=device)[None].expand(len(items), -1),
            past_key_values=past,
            use_cache=past is not None,
        )
        return self._read(_rows_read(output.last_hidden_state, items)).float()

    def _compute_prefix(self, prefix: TokenArray | None, copies: int) -> tuple[DynamicCache | None, int]:
        if prefix is None:
            return None, 0
        past = DynamicCache()
        ids = torch.from_numpy(prefix.astype("int64"))[None].to(self._base.device)
        self._base(input_ids=ids, past_key_values=past, use_cache=True)
        past.batch_repeat_interleave(copies)
        return past, len(prefix)


def _counts(items: Sequence[EncodedItem]) -> list[int]:
    """How many rows are read of each item."""
    return [1 if item.read is None else len(item.read) for item in items]


def _rows_read(hidden: Tensor, items: Sequence[EncodedItem]) -> Tensor:
    """[items, length, hidden] padded on the right -> [rows, hidden]: of each item those that it says, or its last."""
    rows = np.repeat(np.arange(len(items)), _counts(items))
    columns = np.concatenate([[len(item) - 1] if item.read is None else item.read for item in items])
    return hidden[to_device(rows, hidden.device), to_device(columns, hidden.device)]


def buckets(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Positions grouped by like length, longest first; a group padded has at most `tokens` tokens."""
    bucket: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if bucket:
            longest = lengths[bucket[0]]
            if longest * (len(bucket) + 1) > tokens or lengths[position] < _LEAST_FILL * longest:
                yield bucket
                bucket = []
        bucket.append(position)
    if bucket:
        yield bucket


def _pool(hidden: Tensor, mask: Tensor, mode: str) -> Tensor:
    """[items, length, hidden] padded on the right -> [items, hidden]."""
    if mode == "cls":
        return hidden[:, 0]
    if mode == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)
