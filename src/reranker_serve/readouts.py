"""What a backend is to read of a model, as a family says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reranker_serve.layers import Layer

# Of the last hidden states of a sequence: its first one, the mean of all, its last one.
Pooling = Literal["cls", "mean", "last"]


@dataclass(frozen=True, slots=True)
class ClassifierReadout:
    """Read the one logit of the checkpoint's own classification head."""

    width: int = 1


@dataclass(frozen=True, slots=True)
class PooledReadout:
    """Read one vector of `width` numbers a sequence, pooled from its last hidden states."""

    mode: Pooling
    width: int


@dataclass(frozen=True, slots=True)
class HeadReadout:
    """Read what the checkpoint's `layers` make, in float32, of one vector a sequence, pooled as in `PooledReadout`."""

    mode: Pooling
    layers: tuple[Layer, ...]

    @property
    def width(self) -> int:
        return self.layers[-1].outputs


@dataclass(frozen=True, slots=True)
class NextTokenReadout:
    """Read the logits of these vocabulary ids as the token after the sequence, in this order."""

    token_ids: tuple[int, ...]

    @property
    def width(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class VectorsReadout:
    """Read a vector of `width` numbers at each position an item says: its last hidden state through `layers`, and with
    `normalized` made 1 long."""

    width: int
    layers: tuple[Layer, ...] = ()
    normalized: bool = True


Readout = ClassifierReadout | PooledReadout | HeadReadout | NextTokenReadout | VectorsReadout
