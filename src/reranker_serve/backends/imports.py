"""Load a model without importing torch's compiler and distributed tensors, which transformers names and nothing uses.

They take half a second until a model is ready, and 40 MB. A stand-in answers for the compiler meanwhile: its marks
for functions change nothing, as nothing is compiled, and whatever else is asked of it comes from the real module.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_MASKS = f"{_COMPILER}._trace_wrapped_higher_order_op"
_MARKS = ("allow_in_graph", "assume_constant_result", "disable")


@contextmanager
def without_compiler() -> Iterator[None]:
    """Around the import of transformers and the loading of a model; nothing where the compiler was imported before."""
    import torch.distributed

    if _COMPILER in sys.modules:
        yield
        return
    available = torch.distributed.is_available
    masks = ModuleType(_MASKS)
    masks.__dict__["TransformGetItemToIndex"] = lambda: _real(_MASKS).TransformGetItemToIndex()
    sys.modules |= {_COMPILER: _Compiler(_COMPILER), _MASKS: masks}
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = available
        _withdraw()


class _Compiler(ModuleType):
    """Stands for the compiler's package."""

    def __getattr__(self, name: str) -> Any:
        return _mark if name in _MARKS else getattr(_real(_COMPILER), name)

    @property
    def __path__(self) -> Any:  # type: ignore[override]  # where Python looks for a part of it
        return _real(_COMPILER).__path__


def _mark(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """A decorator, with arguments or without."""
    return function if function is not None else _mark


def _real(name: str) -> Any:
    _withdraw()
    return importlib.import_module(name)


def _withdraw() -> None:
    if isinstance(sys.modules.get(_COMPILER), _Compiler):
        del sys.modules[_COMPILER]
        sys.modules.pop(_MASKS, None)
