"""What the torch backend must know of an architecture to run it packed.

A row says where positions start, whether attention is causal, and how the classification head
reads one row of hidden states. An architecture without a row runs padded, through its own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from reranker_serve.backends.torch.layers import vector_reader
from reranker_serve.readouts import ClassifierReadout, HeadReadout, NextTokenReadout, Readout, VectorsReadout

# (model, one pooled hidden state a sequence [n, 1, hidden]) -> logits [n, labels]
Head = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Architecture:
    """`starts_after_padding`: positions count from pad_token_id + 1, as in RoBERTa.

    `last_rowwise`: from the base model, the module of its last layer from which on every row
    is computed by itself; it takes nothing but hidden states.
    """

    head: Head
    starts_after_padding: bool = False
    causal: bool = False
    last_rowwise: Callable[[Any], nn.Module] | None = None


def _first_token_classifier(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(rows)
    return logits


def _pooler_and_classifier(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.base_model.pooler(rows))
    return logits


def _albert(model: Any, rows: Tensor) -> Tensor:
    base = model.base_model
    logits: Tensor = model.classifier(base.pooler_activation(base.pooler(rows[:, 0])))
    return logits


def _distilbert(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(torch.relu(model.pre_classifier(rows[:, 0])))
    return logits


def _modernbert(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.head(rows[:, 0]))
    return logits


def _eurobert(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.activation(model.dense(rows[:, 0])))
    return logits


def _language_model(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.score(rows[:, 0])
    return logits


def _after_last_attention(base: Any) -> nn.Module:
    module: nn.Module = base.encoder.layer[-1].attention.output
    return module


_ROBERTA = Architecture(_first_token_classifier, starts_after_padding=True, last_rowwise=_after_last_attention)
_BERT = Architecture(_pooler_and_classifier, last_rowwise=_after_last_attention)

ARCHITECTURES: dict[str, Architecture] = {
    "xlm-roberta": _ROBERTA,
    "roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "bert": _BERT,
    "ernie": _BERT,
    "albert": Architecture(_albert),
    "nomic_bert": Architecture(_pooler_and_classifier),
    "gte": Architecture(_pooler_and_classifier),
    "jina_embeddings_v3": Architecture(_first_token_classifier),
    "electra": Architecture(_first_token_classifier, last_rowwise=_after_last_attention),
    "distilbert": Architecture(_distilbert),
    "modernbert": Architecture(_modernbert),
    "eurobert": Architecture(_eurobert),
    "qwen3": Architecture(_language_model, causal=True),
    "qwen2": Architecture(_language_model, causal=True),
    "gemma": Architecture(_language_model, causal=True),
    "llama": Architecture(_language_model, causal=True),
    "mistral": Architecture(_language_model, causal=True),
}


def architecture_of(config: Any) -> Architecture | None:
    """The row of a loaded model's configuration; None where it can only run padded, through its own forward."""
    row = ARCHITECTURES.get(config.model_type)
    return replace(row, causal=False) if row is not None and getattr(config, "is_causal", True) is False else row


def reader(model: Any, architecture: Architecture, readout: Readout, layers: nn.Module) -> Callable[[Tensor], Tensor]:
    """From the rows of hidden states that are read, [n, hidden], to [n, readout.width].

    `layers` are those of the readout, in float32. Of a vocabulary only the rows of the asked tokens are multiplied, in
    float32.
    """
    if isinstance(readout, VectorsReadout):
        return vector_reader(readout, layers)
    if isinstance(readout, NextTokenReadout):
        asked = model.lm_head.weight[list(readout.token_ids)].detach().float()
        return lambda rows: rows.float() @ asked.T
    if isinstance(readout, ClassifierReadout):
        return lambda rows: architecture.head(model, rows[:, None])
    if isinstance(readout, HeadReadout):
        return lambda rows: layers(rows.float())
    return lambda rows: rows
