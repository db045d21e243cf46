"""The first module of a sentence-transformers folder: what is declared of the transformer, and of texts before it.

What is ignored here could change every score, so a key is honoured, known to change nothing, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError

# The names that sentence-transformers has given the file; the first that is there and not empty counts.
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What is handed to transformers, under its old names as well; of these arguments no score depends.
_ARGUMENTS = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
_HARMLESS = {
    *("add_pooling_layer", "attn_implementation", "dtype", "low_cpu_mem_usage", "torch_dtype", "trust_remote_code"),
    *("unpad_inputs", "use_cache", "use_fast", "use_memory_efficient_attention", "use_safetensors"),
}
_SIDES = ("query_length", "document_length", "query_expansion")
_EMPTY = ("tokenizer_name_or_path",)
Task = Literal["feature-extraction", "sequence-classification", "text-generation"]
# What comes out of the module, and of what the transformer gives it is that.
_OUTPUTS: Mapping[Task, tuple[str, str]] = {
    "feature-extraction": ("token_embeddings", "last_hidden_state"),
    "sequence-classification": ("scores", "logits"),
    "text-generation": ("causal_logits", "logits"),
}


def read_transformer(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """The file's name and what it declares; nothing where there is none. Raises `ModelError`."""
    for name in TRANSFORMER_FILES:
        declared = checkpoint.read_object(name)
        if declared:
            return name, declared
    return TRANSFORMER_FILES[0], {}


def check_transformer(checkpoint: Checkpoint, *, task: Task = "feature-extraction", sided: bool = False) -> None:
    """Raises `ModelError` for what would change what comes out of a `task` and is not computed here.

    `sided` where query and document may have lengths of their own.
    """
    name, declared = read_transformer(checkpoint)
    path, empty = checkpoint.folder / name, (*_EMPTY, *(() if sided else _SIDES))
    output, given = _OUTPUTS[task]
    only = {"transformer_task": task, "module_output_name": output}
    only_of_text = {"method": "forward", "method_output_name": given}
    for key, value in declared.items():
        if key in _ARGUMENTS:
            _check_arguments(path, key, value)
        elif value != only.get(key, value) or (key in empty and value) or _changes_texts(key, value):
            raise ModelError(f"{path}: {key} is {value!r}, which is not supported")
    modalities = declared.get("modality_config")
    text = modalities.get("text") if isinstance(modalities, dict) else modalities
    if text not in (None, only_of_text):
        raise ModelError(f"{path}: modality_config has {text!r} for texts; supported is {only_of_text!r}")


def read_max_length(checkpoint: Checkpoint) -> float | None:
    """Most tokens of a text or pair, if the files say it. Raises `ModelError`."""
    name, declared = read_transformer(checkpoint)
    of_tokenizer = checkpoint.read_object("tokenizer_config.json")
    for file, key, found in (
        (name, "max_seq_length", declared.get("max_seq_length")),
        ("tokenizer_config.json", "model_max_length", of_tokenizer.get("model_max_length")),
    ):
        if found is None:
            continue
        if type(found) not in (int, float) or found < 1:
            raise ModelError(f"{checkpoint.folder / file}: {key} is {found!r}, not a number of tokens: correct it")
        return float(found)
    return None


def _changes_texts(key: str, value: Any) -> bool:
    """What a chat template is given is not text, see `chat_template.py`."""
    if key != "processing_kwargs" or not value:
        return False
    return not isinstance(value, dict) or any(found for part, found in value.items() if part != "chat_template")


def _check_arguments(path: Path, key: str, value: Any) -> None:
    unknown = set(value) - _HARMLESS if isinstance(value, dict) else {str(value)} if value else set()
    if unknown:
        raise ModelError(f"{path}: {key} sets {', '.join(sorted(unknown))}, which is not supported")
