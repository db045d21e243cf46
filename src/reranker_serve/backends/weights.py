"""A checkpoint's weights, from its files to a model whose memory holds them once.

On a CPU the files are mapped, and what is computed with is converted one tensor at a time; the pages it came
from go back to the system at once. The table of word embeddings stays in its file: see `StoredEmbedding`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from reranker_serve.backends.adapter import Adapter, adapter_of
from reranker_serve.backends.device import DType, MappedFiles
from reranker_serve.backends.translated import translated
from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, shortened
from reranker_serve.readouts import (
    ClassifierReadout,
    HeadReadout,
    NextTokenReadout,
    PooledReadout,
    Readout,
    VectorsReadout,
)

# Of transformers: to run a repository's code, or to install what reads quantized weights.
_OTHERS_ADVICE = re.compile(r"trust_remote_code|custom code|inspect the repository|pip install", re.IGNORECASE)

_MODEL_KINDS: dict[type[Readout], Any] = {
    ClassifierReadout: AutoModelForSequenceClassification,
    NextTokenReadout: AutoModelForCausalLM,
    PooledReadout: AutoModel,
    HeadReadout: AutoModel,
    VectorsReadout: AutoModel,
}


# As configurations and the headers of safetensors call them.
_PRECISIONS: dict[str, DType] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}


class StoredEmbedding(nn.Module):
    """ids [...] -> [..., hidden]: rows of a table in a file, each converted and kept when it is first read.

    Two thirds of the numbers of bge-reranker-base are its 250,000 words, of which texts use a few thousand.
    `give_back` is called when rows were read from the file.
    """

    def __init__(self, stored: Tensor, dtype: torch.dtype, give_back: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._stored = stored
        self._give_back = give_back
        # Memory that nothing was written to is not there yet.
        self._rows = torch.empty(stored.shape, dtype=dtype)
        self._known = torch.zeros(len(stored), dtype=torch.bool)

    def forward(self, ids: Tensor) -> Tensor:
        new = torch.unique(ids[~self._known[ids]])
        if len(new):
            self._rows[new] = self._stored[new].to(self._rows.dtype)
            self._known[new] = True
            self._give_back(self._stored)
        return nn.functional.embedding(ids, self._rows)


def load_weights(checkpoint: Checkpoint, readout: Readout, dtype: torch.dtype, device: str) -> Any:
    """The checkpoint's model (safetensors only). Raises `ModelError` with one line.

    On a CPU what `readout` needs of it is in `dtype`; elsewhere all of it, and on the device if that is possible.
    """
    _refuse_quantized(checkpoint)
    adapter = adapter_of(checkpoint.folder)
    model = _read(checkpoint, readout, "auto" if device == "cpu" else dtype, device, adapter)
    files = MappedFiles(checkpoint.folder.glob("*.safetensors") if device == "cpu" else ())
    if adapter is not None:
        adapter.merge(model, dtype, lambda stored: _give_back(stored, files))
    if device == "cpu":
        _convert(model, readout, dtype, files)
    return model


def stored_precision(checkpoint: Checkpoint) -> DType | None:
    """What a checkpoint was saved in, by its configuration, else by most of its numbers; None where neither tells."""
    for part in (checkpoint.config, checkpoint.config.get("text_config") or {}):
        declared = str(part.get("dtype") or part.get("torch_dtype"))
        if declared in _PRECISIONS:
            return _PRECISIONS[declared]
    try:
        return _most_common_precision(checkpoint.folder)
    except (OSError, SafetensorError):
        return None  # loading tells what is wrong


def _most_common_precision(folder: Path) -> DType | None:
    numbers = Counter[str]()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_slice(name)
                numbers[tensor.get_dtype()] += math.prod(tensor.get_shape())
    return _PRECISIONS.get(max(numbers, key=numbers.__getitem__, default=""))


def _convert(model: Any, readout: Readout, dtype: torch.dtype, files: MappedFiles) -> None:
    table = model.get_input_embeddings()
    as_stored = set[Tensor]()
    if type(table) is nn.Embedding and table.weight.dtype is not dtype and _mapped(table.weight, files):
        as_stored.add(table.weight)
        _replace(model, table, StoredEmbedding(table.weight.detach(), dtype, lambda stored: _give_back(stored, files)))
    if isinstance(readout, NextTokenReadout) and model.lm_head.weight is not table.weight:
        as_stored.add(model.lm_head.weight)  # of which two rows are read
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype is not dtype and parameter not in as_stored:
            stored = parameter.data
            parameter.data = stored.to(dtype)
            _give_back(stored, files)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _mapped(tensor: Tensor, files: MappedFiles) -> bool:
    return files.hold(tensor.data_ptr(), tensor.nbytes)


def _give_back(tensor: Tensor, files: MappedFiles) -> None:
    if _mapped(tensor, files):
        files.give_back(tensor.data_ptr(), tensor.nbytes)


def _refuse_quantized(checkpoint: Checkpoint) -> None:
    """Quantized weights want packages and kernels of their own, and would be read as numbers that they are not."""
    for part in (checkpoint.config, checkpoint.config.get("text_config") or {}):
        method = part.get("quantization_config")
        if method:
            name = method.get("quant_method") if isinstance(method, dict) else None
            of = f" ({name})" if name else ""
            raise ModelError(
                f"{checkpoint.folder / 'config.json'}: quantization_config{of} tells of quantized weights, which are"
                " not read here: use the model that they were made from"
            )


def _read(
    checkpoint: Checkpoint,
    readout: Readout,
    dtype: torch.dtype | Literal["auto"],
    device: str,
    adapter: Adapter | None,
) -> Any:
    folder = checkpoint.folder
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of what does not fit is one line of ours
    kind = _MODEL_KINDS[type(readout)]
    source: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    try:
        if checkpoint.renames is not None:
            kind, source = translated(checkpoint, checkpoint.renames)
        model, report = kind.from_pretrained(
            **source,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            # Straight to where it is used, for which transformers wants a package of its own.
            device_map={"": device} if device != "cpu" and find_spec("accelerate") else None,
        )
    except ModelError:
        raise
    except Exception as error:  # safetensors, transformers and the file system each raise their own
        reason = _reason(error)
        advice = "; download the model again" if isinstance(error, OSError | SafetensorError) else ""
        raise ModelError(f"the weights in {folder} cannot be loaded: {reason}{advice}") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    _require_fit(folder, report, lambda name: adapter is not None and adapter.brings(name))
    _answer_with_names(model)
    return model


def _answer_with_names(model: Any) -> None:
    """Whatever a configuration says of how a model computes and answers, not of what."""
    model.config.return_dict = True
    for module in model.modules():
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0  # wants lengths that are a multiple of it


def _reason(error: Exception) -> str:
    """What is wrong, in the first whole sentences or words; advice to do what is refused here is left out."""
    sentences = re.split(r"(?<=[.!?:;]) ", " ".join(str(error).split()))
    kept = " ".join(takewhile(lambda sentence: not _OTHERS_ADVICE.search(sentence), sentences)).rstrip(":; ")
    if not kept:
        return "it needs code or packages of its own, which are not used here"
    return shortened(kept)


def _require_fit(folder: Path, report: Any, brought: Callable[[str], bool]) -> None:
    """Raise `ModelError` where the files do not have the model's tensors, but for those that are `brought`."""
    mismatched = sorted(str(name) for name, *_ in report["mismatched_keys"] if not brought(str(name)))
    if mismatched:
        raise ModelError(
            f"the weights in {folder} have other shapes than its config.json tells, {mismatched[0]} first:"
            " the two are not of the same model"
        )
    # A bare encoder is pooled by the family; its own pooler is neither needed nor always saved.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler.") and not brought(name))
    if missing:
        raise ModelError(
            f"the weights in {folder} lack {len(missing)} tensor(s) of the model, {missing[0]} first:"
            " the folder holds another model's weights, or only a part of them"
        )
