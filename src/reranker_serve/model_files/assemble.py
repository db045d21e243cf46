"""An adapter and its base as the one folder that they would be after merging, made of links."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open

from reranker_serve.backends.adapter_config import ADAPTER_FOLDER, AdapterConfig, read_adapter_config
from reranker_serve.errors import ModelError, StartupError
from reranker_serve.model_files.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from reranker_serve.model_names import as_path, name_of

# The class that peft's task types stand for is named after the base's model: `Qwen3` + `ForSequenceClassification`.
_CLASSES = {"SEQ_CLS": "ForSequenceClassification", "FEATURE_EXTRACTION": "Model"}
_ANY_CLASS = re.compile(r"(For[A-Z]\w+|Model|LMHeadModel)$")
# The last layer of a classifier's head, which has a row for each label.
_HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")


@contextmanager
def assembled(adapter: Path, base: Path) -> Iterator[Path]:
    """A folder of the base's files, those the adapter has itself over them, and the adapter in a folder of its own.

    There until the block ends. In the errors of the block it is called by the adapter's path.
    """
    config = read_adapter_config(adapter)
    weights = adapter / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{adapter} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}: download the adapter again")
    try:
        temporary = TemporaryDirectory(prefix="reranker-")
    except OSError as error:
        raise ModelError(f"{adapter} is an adapter, which needs a temporary folder ({error}): set TMPDIR") from None
    with temporary as name:
        folder = Path(name) / adapter.resolve().name
        _link(adapter, base, folder)
        (folder / "config.json").unlink(missing_ok=True)
        merged = _model_config(adapter, base, config)
        (folder / "config.json").write_text(json.dumps(merged), encoding="utf-8")
        try:
            yield folder
        except StartupError as error:
            line = str(error).replace(str(folder / ADAPTER_FOLDER), str(adapter))
            raise type(error)(line.replace(str(folder), str(adapter))) from None


def _link(adapter: Path, base: Path, folder: Path) -> None:
    own = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    sources = {path.name: path for path in (*base.iterdir(), *adapter.iterdir()) if path.name not in own}
    folder.mkdir()
    for name, path in sources.items():
        os.symlink(path.resolve(), folder / name)
    (folder / ADAPTER_FOLDER).mkdir()
    for name in own:
        os.symlink((adapter / name).resolve(), folder / ADAPTER_FOLDER / name)


def _model_config(adapter: Path, base: Path, config: AdapterConfig) -> dict[str, Any]:
    """The configuration of the merged model: the adapter's own, else the base's with the class it was trained as."""
    path = next((folder / "config.json" for folder in (adapter, base) if (folder / "config.json").is_file()), None)
    if path is None:
        raise ModelError(f"{adapter} is an adapter, and its base {base} has no config.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        declared = str((found.get("architectures") or [""])[0])
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if config.base and as_path(config.base) is None:
        found["_name_or_path"] = config.base  # by which its prompt is known
    else:
        found.setdefault("_name_or_path", name_of(base))
    kind = _CLASSES.get(config.task_type or "")
    if kind and declared:
        found["architectures"] = [_ANY_CLASS.sub("", declared) + kind]
    labels = _labels(adapter / ADAPTER_WEIGHTS)
    if kind == "ForSequenceClassification" and labels:
        found["id2label"] = {str(index): f"LABEL_{index}" for index in range(labels)}
        found["label2id"] = {label: int(index) for index, label in found["id2label"].items()}
        found.pop("num_labels", None)
    return dict(found)


def _labels(weights: Path) -> int | None:
    """How many labels the head that an adapter brings has; None where it brings none."""
    try:
        with safe_open(weights, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith(_HEADS):
                    return int(tensors.get_slice(name).get_shape()[0])
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} cannot be read: {error}; download the adapter again") from None
    return None
