"""Padding: for models and devices that packing does not serve (DeBERTa, MPNet, MPS)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from reranker_serve.backends.architectures import Architecture, reader
from reranker_serve.backends.layers import AFTER_TRANSFORMER
from reranker_serve.backends.layout import by_prefix
from reranker_serve.types import EncodedItem, HeadReadout, PooledReadout, Readout, TokenArray

# A bucket closes where its shortest sequence would be more than half padding.
_LEAST_FILL = 0.5


class PaddedForward:
    """Forward passes over buckets of items of like length: [items, readout.width] in float32."""

    def __init__(self, model: Any, readout: Readout, bucket_tokens: int) -> None:
        self._model = model
        self._readout = readout
        self._bucket_tokens = bucket_tokens
        self._pad = model.config.pad_token_id or 0
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._token_types = takes_types and (getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def __call__(self, items: Sequence[EncodedItem]) -> Tensor:
        rows: Tensor | None = None
        for bucket in buckets([len(item) for item in items], self._bucket_tokens):
            part = self._forward([items[i] for i in bucket])
            if rows is None:
                rows = torch.empty((len(items), part.shape[1]), device=part.device)
            rows[bucket] = part
        assert rows is not None
        return rows

    def _forward(self, items: Sequence[EncodedItem]) -> Tensor:
        shape = (len(items), max(len(item) for item in items))
        ids = torch.full(shape, self._pad, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        types = torch.zeros(shape, dtype=torch.long)
        for row, item in enumerate(items):
            ids[row, : len(item)] = torch.from_numpy(item.ids.astype("int64"))
            mask[row, : len(item)] = 1
            types[row, item.second_segment : len(item)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._token_types:
            inputs["token_type_ids"] = types
        output = self._model(**{name: tensor.to(self._model.device) for name, tensor in inputs.items()})
        if isinstance(self._readout, PooledReadout | HeadReadout):
            pooled = _pool(output.last_hidden_state.float(), mask.to(self._model.device), self._readout.mode)
            return (
                pooled
                if isinstance(self._readout, PooledReadout)
                else self._model.get_submodule(AFTER_TRANSFORMER)(pooled)
            )
        logits: Tensor = output.logits.float()
        return logits


class PaddedLanguageModel:
    """The same for causal models: a prefix is computed once, its keys and values copied to each item.

    Padded on the right, which no causal model can see.
    """

    def __init__(self, model: Any, architecture: Architecture, readout: Readout, bucket_tokens: int) -> None:
        self._base = model.base_model
        self._read = reader(model, architecture, readout)
        self._bucket_tokens = bucket_tokens

    def __call__(self, items: Sequence[EncodedItem]) -> Tensor:
        rows: list[Tensor | None] = [None] * len(items)
        for prefix, members in by_prefix(items):
            before = 0 if prefix is None else len(prefix)  # each item has a copy of its keys and values
            for bucket in buckets([before + len(items[i]) for i in members], self._bucket_tokens):
                part = self._forward(prefix, [items[members[i]] for i in bucket])
                for i, row in zip(bucket, part, strict=True):
                    rows[members[i]] = row
        return torch.stack([row for row in rows if row is not None])

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
        last = output.last_hidden_state[torch.arange(len(items), device=device), lengths.to(device) - 1]
        return self._read(last).float()

    def _compute_prefix(self, prefix: TokenArray | None, copies: int) -> tuple[DynamicCache | None, int]:
        if prefix is None:
            return None, 0
        past = DynamicCache()
        ids = torch.from_numpy(prefix.astype("int64"))[None].to(self._base.device)
        self._base(input_ids=ids, past_key_values=past, use_cache=True)
        past.batch_repeat_interleave(copies)
        return past, len(prefix)


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
