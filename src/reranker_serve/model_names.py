"""What models are called: by the hub's id, by a path, and by the folder that they lie in."""

from __future__ import annotations

import os
from pathlib import Path


def as_path(name: str) -> Path | None:
    """The folder that a model's name is a path to; None where it is the hub's id of one."""
    path = Path(os.path.expanduser(name))
    return path if name.startswith((".", "/", "~")) or path.is_dir() else None


def name_of(folder: Path) -> str:
    """The hub's id of a folder in the hub's cache, `models--ORG--NAME/snapshots/COMMIT`; else the folder's own name."""
    resolved = folder.resolve()
    repository = resolved.parent.parent.name
    if resolved.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return resolved.name


def folder_name(model: str) -> str:
    """`BAAI/bge-reranker-v2-m3` -> `BAAI_bge-reranker-v2-m3`, which a download is called."""
    return model.strip("/").replace("/", "_")
