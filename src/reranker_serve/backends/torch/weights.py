"""A checkpoint's weights, from its files to a model whose memory holds them once.

On a CPU they are mapped and converted piece by piece: see `cpu/mapped_weights.py`.
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
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from reranker_serve.backends.cpu.mapped_weights import MappedFiles, convert, give_back
from reranker_serve.backends.device import DType
from reranker_serve.backends.torch.adapter import Adapter, adapter_of
from reranker_serve.backends.torch.translated import translated
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


def load_weights(checkpoint: Checkpoint, readout: Readout, dtype: torch.dtype, device: str) -> Any:
    """The checkpoint's model (safetensors only). Raises `ModelError` with one line.

    On a CPU what `readout` needs of it is in `dtype`; elsewhere all of it, and on the device if that is possible.
    """
    _refuse_quantized(checkpoint)
    adapter = adapter_of(checkpoint.folder)
    model = _read(checkpoint, readout, "auto" if device == "cpu" else dtype, device, adapter)
    files = MappedFiles(checkpoint.folder.glob("*.safetensors") if device == "cpu" else ())
    if adapter is not None:
        adapter.merge(model, dtype, lambda stored: give_back(stored, files))
    if device == "cpu":
        convert(model, readout, dtype, files)
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
