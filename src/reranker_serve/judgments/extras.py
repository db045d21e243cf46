"""Libraries that only these tools need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from reranker_serve.errors import StartupError


def require(name: str) -> Any:
    """Import a library of the extra `evaluate`. Raises `StartupError` that says how to install it."""
    try:
        return import_module(name)
    except ImportError:
        missing = name.partition(".")[0]
        raise StartupError(f"this needs {missing}: pip install 'reranker-serve[evaluate]'") from None
