"""Libraries that only these tools need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from reranker_serve.errors import StartupError


def require(name: str, extra: str = "evaluate") -> Any:
    """Import a library of an extra. Raises `StartupError` that says how to install it."""
    try:
        return import_module(name)
    except ImportError:
        missing = name.partition(".")[0]
        raise StartupError(f"this needs {missing}: pip install 'reranker-serve[{extra}]'") from None
