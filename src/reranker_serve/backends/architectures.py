"""What the torch backend must know of an architecture to run it packed.

A row says where positions start and how the classification head reads one row of hidden
states. An architecture without a row runs padded, through its own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# (model, one pooled hidden state a sequence [n, 1, hidden]) -> logits [n, labels]
Head = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Architecture:
    """`starts_after_padding`: positions count from pad_token_id + 1, as in RoBERTa."""

    head: Head
    starts_after_padding: bool = False


def _first_token_classifier(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(rows)
    return logits


def _bert(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.bert.pooler(rows))
    return logits


def _distilbert(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(torch.relu(model.pre_classifier(rows[:, 0])))
    return logits


def _modernbert(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.head(rows[:, 0]))
    return logits


ARCHITECTURES: dict[str, Architecture] = {
    "xlm-roberta": Architecture(_first_token_classifier, starts_after_padding=True),
    "roberta": Architecture(_first_token_classifier, starts_after_padding=True),
    "bert": Architecture(_bert),
    "electra": Architecture(_first_token_classifier),
    "distilbert": Architecture(_distilbert),
    "modernbert": Architecture(_modernbert),
}
