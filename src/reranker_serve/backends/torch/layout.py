"""What lies where in the row of a packed batch, and who attends to what."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reranker_serve.types import EncodedItem, TokenArray

Made = TypeVar("Made")

# Masks of more keys are made anew for each layer: kept, they would be the square of a sequence.
_MOST_KEPT_KEYS = 8192


@dataclass(frozen=True, slots=True)
class Span:
    """A sequence's place in the row, and that of its prefix; an empty one if it has none.

    To its last `unseen` tokens nobody attends.
    """

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0
    unseen: int = 0

    @property
    def prefix(self) -> int:
        """Length of the prefix."""
        return self.prefix_stop - self.prefix_start

    @property
    def seen(self) -> int:
        """Where its tokens end to which it attends."""
        return self.stop - self.unseen

    @property
    def keys(self) -> int:
        """How many tokens it attends to."""
        return self.prefix + self.seen - self.start


@dataclass(frozen=True)
class Layout:
    """What lies where in the row of a batch. `places[i]` is the span of item i in `spans`."""

    spans: tuple[Span, ...]
    places: tuple[int, ...]
    causal: bool
    device: torch.device
    _made: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Sequence[EncodedItem], causal: bool, device: torch.device) -> Layout:
        spans: list[Span] = []
        places = [0] * len(items)
        end = 0
        for prefix, members in by_prefix(items):
            shared = Span(end, end + (0 if prefix is None else len(prefix)))
            if prefix is not None:
                spans.append(shared)
                end = shared.stop
            for member in members:
                places[member] = len(spans)
                item = items[member]
                spans.append(Span(end, end + len(item), shared.start, shared.stop, item.unseen))
                end += len(item)
        return cls(tuple(spans), tuple(places), causal, device)

    @property
    def tokens(self) -> int:
        """Tokens of all spans together."""
        return self.spans[-1].stop

    @cached_property
    def query_bounds(self) -> Tensor:
        """[spans + 1]: where each span's tokens begin, int32."""
        return self._bounds(span.stop - span.start for span in self.spans)

    @cached_property
    def key_bounds(self) -> Tensor:
        """[spans + 1]: the same for what each span attends to, its prefix and itself, int32."""
        return self._bounds(span.keys for span in self.spans)

    @cached_property
    def keys(self) -> Tensor | None:
        """Positions in the row of what each span attends to, one after the other; None where that is the row."""
        if not any(span.prefix or span.unseen for span in self.spans):
            return None
        parts = [
            part
            for span in self.spans
            for part in (np.arange(span.prefix_start, span.prefix_stop), np.arange(span.start, span.seen))
        ]
        return to_device(np.concatenate(parts), self.device)

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Most tokens of a span, and most it attends to."""
        return max(span.stop - span.start for span in self.spans), max(span.keys for span in self.spans)

    def shifted(self, window: int | None) -> list[Span]:
        """Spans in which a window would move by their unseen tokens, were the last query at the last key."""
        if window is None:
            return []
        return [span for span in self.spans if span.unseen and span.stop - span.start > window]

    def mask(self, rows: range, keys: int, window: int | None, repeat: int, dtype: torch.dtype) -> Tensor | None:
        """[repeat x len(rows), keys]: -inf where row i, a position among the keys, must not see key j, else 0.

        `window` w: i sees j only where |i - j| < w. None if everything is seen. The same for
        every layer, so it is made once a batch unless it is large.
        """
        if not self.causal and (window is None or max(keys, rows.stop) <= window):
            return None

        def make() -> Tensor:
            return self._mask(rows, keys, window, dtype).repeat(repeat, 1)

        return make() if keys > _MOST_KEPT_KEYS else self.once((rows, keys, window, repeat), make)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` makes: once a batch, as it is the same in every layer."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def _mask(self, rows: range, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
        i = torch.arange(rows.start, rows.stop, device=self.device)[:, None]
        j = torch.arange(keys, device=self.device)[None, :]
        hidden = (j > i) & self.causal
        hidden = hidden if window is None else hidden | ((i - j).abs() >= window)
        return torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))

    def _bounds(self, lengths: Iterable[int]) -> Tensor:
        return to_device(np.array(list(accumulate(lengths, initial=0)), dtype=np.int32), self.device)


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; neither the copy to a GPU nor what it computes at the time is waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def by_prefix(items: Sequence[EncodedItem]) -> list[tuple[TokenArray | None, list[int]]]:
    """Positions of the items that share a prefix; each item without one stands alone."""
    groups: dict[int, tuple[TokenArray | None, list[int]]] = {}
    for position, item in enumerate(items):
        key = -1 - position if item.prefix is None else id(item.prefix)
        groups.setdefault(key, (item.prefix, []))[1].append(position)
    return list(groups.values())
