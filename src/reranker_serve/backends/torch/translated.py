"""A checkpoint that was published with code of its own, for the class of transformers that computes the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import transformers
from safetensors import safe_open
from torch import Tensor

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.published import Renames


def translated(checkpoint: Checkpoint, renames: Renames) -> tuple[Any, dict[str, Any]]:
    """The native class of a checkpoint published with code of its own, and what that is given."""
    native = getattr(transformers, checkpoint.architecture, None)
    if native is None:
        raise ModelError(
            f"{checkpoint.folder}: transformers {transformers.__version__} has no {checkpoint.architecture}, which"
            " serves this model: install transformers 5.23 or later"
        )
    config = native.config_class.from_dict(checkpoint.config)
    if not renames:  # transformers knows the names of this layout
        return native, {"pretrained_model_name_or_path": checkpoint.folder, "config": config}
    tensors = dict(renamed(_stored(checkpoint.folder), renames))
    return native, {"pretrained_model_name_or_path": None, "config": config, "state_dict": tensors}


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a folder's files, on a CPU mapped and not read yet."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name)


def renamed(tensors: Iterable[tuple[str, Tensor]], renames: Renames) -> Iterator[tuple[str, Tensor]]:
    """Tensors by their native names; one that has several there is cut in as many equal parts of its rows."""
    for stored_name, tensor in tensors:
        parts = {stored_name: tensor}
        for old, new in renames:
            for name in [name for name in parts if old in name]:
                rows = parts.pop(name).chunk(len(new))
                parts |= {name.replace(old, other): share for other, share in zip(new, rows, strict=True)}
        yield from parts.items()
