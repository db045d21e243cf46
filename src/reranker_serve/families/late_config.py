"""What a folder of a late interaction model (ColBERT) declares, in one of three layouts.

- Stanford's: the architecture HF_ColBERT, one projection among the weights, and `artifact.metadata`
- PyLate's: sentence-transformers' modules Transformer and Dense, and the rest in `config_sentence_transformers.json`
- sentence-transformers' MultiVectorEncoder, which reads all three; what is left out means here what it means there

The first two name a marker for each side, a text that stands for one token; the third has prompts.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.modules import Module, check_layer, read_layers, read_modules
from reranker_serve.families.transformer_module import check_transformer, read_max_length, read_transformer
from reranker_serve.layers import DenseLayer, Layer
from reranker_serve.readouts import VectorsReadout

STANFORD = "HF_ColBERT"
METADATA = "artifact.metadata"
DECLARED = "config_sentence_transformers.json"
_TYPES = ("ColBERT", "MultiVectorEncoder")
_SIDES = ("query", "document")
# What only PyLate writes. Where one of these is, queries are expanded unless something says no.
_PYLATE_KEYS = (
    "query_length",
    "document_length",
    "query_expansion",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "query_prefix",
    "document_prefix",
    "skiplist_words",
)
_QUERY_LENGTH = 32
_STRATEGIES = ("fixed", "min")
_EXPANSION_KEYS = {"strategy", "attend", "token", "length"}
_NOT_MAX_SIM = (None, "cosine", "dot")  # written before there was a choice
_AFTER: tuple[list[str], ...] = ([], ["Normalize"], ["MultiVectorMask"], ["MultiVectorMask", "Normalize"])
_MODULES = "a late interaction model may have Transformer, Dense, MultiVectorMask and Normalize, in this order"


@dataclass(frozen=True, slots=True)
class DeclaredExpansion:
    """`token` None is the tokenizer's mask, or else what ends a text. With `fixed` a longer query is cut."""

    length: int
    fixed: bool
    attended: bool
    token: str | None


@dataclass(frozen=True, slots=True)
class DeclaredSide:
    """`file` and `key` are where `prompt` stands, of which `marker`, if there is one, is the beginning."""

    file: Path
    key: str
    marker: str | None
    prompt: str
    length: int | None
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declared:
    """The three layouts in one shape; `expansion_file` is where the expansion stands."""

    query: DeclaredSide
    document: DeclaredSide
    expansion: DeclaredExpansion | None
    expansion_file: Path
    lowercase: bool
    mean: bool
    max_length: int | None
    readout: VectorsReadout


def is_late_interaction(checkpoint: Checkpoint) -> bool:
    if checkpoint.architecture == STANFORD:
        return True
    declared = _object(checkpoint, DECLARED)
    return declared.get("model_type") in _TYPES or (checkpoint.has_modules and "query_prefix" in declared)


def read_declared(checkpoint: Checkpoint) -> Declared:
    """Raises `ModelError` with one line that names file and key of what is missing, not known or not supported."""
    return _stanford(checkpoint) if checkpoint.architecture == STANFORD else _modular(checkpoint)


def _stanford(checkpoint: Checkpoint) -> Declared:
    path, metadata = checkpoint.folder / METADATA, _object(checkpoint, METADATA)
    if metadata.get("similarity", "cosine") != "cosine":
        raise ModelError(f"{path}: similarity is {metadata['similarity']!r}; supported is cosine")
    punctuation = tuple(string.punctuation) if metadata.get("mask_punctuation", True) else ()
    length = _count(path, metadata, "query_maxlen") or _QUERY_LENGTH
    return Declared(
        query=_stanford_side(path, metadata, "query_token_id", "[unused0]", None, ()),
        document=_stanford_side(
            path, metadata, "doc_token_id", "[unused1]", _count(path, metadata, "doc_maxlen"), punctuation
        ),
        expansion=DeclaredExpansion(length, True, bool(metadata.get("attend_to_mask_tokens")), None),
        expansion_file=path,
        lowercase=False,
        mean=False,
        max_length=_whole(read_max_length(checkpoint)),
        readout=_readout((_projection(checkpoint),), True),
    )


def _stanford_side(
    path: Path, metadata: Mapping[str, Any], key: str, otherwise: str, length: int | None, skipped: tuple[str, ...]
) -> DeclaredSide:
    marker = str(metadata.get(key) or otherwise)
    return DeclaredSide(path, key, marker, f"{marker} ", length, skipped)


def _projection(checkpoint: Checkpoint) -> DenseLayer:
    """Among the weights of the transformer; its height is told by nothing else."""
    path = checkpoint.folder / "model.safetensors"
    try:
        with safe_open(path, "np") as tensors:
            known = "linear.weight" in tensors.keys()  # noqa: SIM118
            outputs = int(tensors.get_slice("linear.weight").get_shape()[0]) if known else 1
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    layer = DenseLayer(path.name, checkpoint.hidden_size, outputs, False, "identity")
    check_layer(checkpoint, layer)
    return layer


def _modular(checkpoint: Checkpoint) -> Declared:
    path, declared = checkpoint.folder / DECLARED, _object(checkpoint, DECLARED)
    modules = read_modules(checkpoint)
    kinds = [module.kind for module in modules]
    dense = [module for module in modules if module.kind == "Dense"]
    pylate = declared.get("model_type") != "MultiVectorEncoder"
    after = kinds[1 + len(dense) :]
    # Of PyLate's folders the words that are skipped are told elsewhere.
    known = _AFTER[:2] if pylate else _AFTER
    if kinds[: 1 + len(dense)] != ["Transformer", *["Dense"] * len(dense)] or after not in known:
        raise ModelError(
            f"{checkpoint.folder}: the modules {', '.join(kinds) or '(none)'} are not supported; {_MODULES}"
        )
    if pylate and not dense:
        raise ModelError(f"{checkpoint.folder / 'modules.json'} lists no Dense, which makes the vectors: {_MODULES}")
    check_transformer(checkpoint, sided=True)
    bert, transformer = read_transformer(checkpoint)
    expansion, file = _modular_expansion(checkpoint, declared, transformer, bert)
    mask = next((module for module in modules if module.kind == "MultiVectorMask"), None)
    if expansion and mask is None and not pylate:
        raise ModelError(
            f"{checkpoint.folder / bert}: query_expansion is set, but modules.json lists no MultiVectorMask, without"
            " which it is not scored"
        )
    skipped = _skipped(checkpoint, mask, declared, pylate)
    lengths = {side: _count(checkpoint.folder / bert, transformer, f"{side}_length") for side in _SIDES}
    lengths["document"] = lengths["document"] or _count(path, declared, "document_length")
    if "query_expansion" in declared or declared.get("do_query_expansion") is False:
        lengths["query"] = lengths["query"] or _count(path, declared, "query_length")  # else it is the expansion's
    return Declared(
        query=_modular_side(checkpoint, declared, "query", lengths["query"], skipped["query"]),
        document=_modular_side(checkpoint, declared, "document", lengths["document"], skipped["document"]),
        expansion=expansion,
        expansion_file=file,
        lowercase=bool(transformer.get("do_lower_case")),
        mean=_is_mean(path, declared),
        max_length=_whole(read_max_length(checkpoint)),
        readout=_readout(
            read_layers(checkpoint, dense, checkpoint.hidden_size, "token_embeddings"),
            pylate or _normalizes(checkpoint, modules[-1]),
            checkpoint.hidden_size,
        ),
    )


def _modular_side(
    checkpoint: Checkpoint, declared: Mapping[str, Any], side: str, length: int | None, skipped: tuple[str, ...]
) -> DeclaredSide:
    path, key = checkpoint.folder / DECLARED, f"{side}_prefix"
    prompts = declared.get("prompts") or {}
    prompt = prompts.get(side) or "" if isinstance(prompts, dict) else None
    marker = declared.get(key) or ""
    for name, value in (("prompts", prompt), (key, marker)):
        if not isinstance(value, str):
            raise ModelError(f"{path}: {name} is {declared[name]!r}, not text")
    if key not in declared:
        return DeclaredSide(path, f"prompts, {side},", None, str(prompt), length, skipped)
    return DeclaredSide(path, key, marker or None, marker + str(prompt).removeprefix(marker), length, skipped)


def _modular_expansion(
    checkpoint: Checkpoint, declared: Mapping[str, Any], transformer: Mapping[str, Any], bert: str
) -> tuple[DeclaredExpansion | None, Path]:
    """And the file that tells it."""
    for name, config in ((bert, transformer), (DECLARED, declared)):
        if "query_expansion" in config:
            path = checkpoint.folder / name
            return _read_expansion(path, config["query_expansion"]), path
    path = checkpoint.folder / DECLARED
    if not any(key in declared for key in _PYLATE_KEYS) or declared.get("do_query_expansion") is False:
        return None, path
    attended = declared.get("attend_to_expansion_tokens", declared.get("attend_to_mask_tokens"))
    return DeclaredExpansion(_count(path, declared, "query_length") or _QUERY_LENGTH, True, bool(attended), None), path


def _read_expansion(path: Path, value: Any) -> DeclaredExpansion | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not set(value) <= _EXPANSION_KEYS or value.get("strategy") not in _STRATEGIES:
        raise ModelError(
            f"{path}: query_expansion is {value!r}; supported are the strategies {' and '.join(_STRATEGIES)}, with"
            " attend, token and length"
        )
    length, attended, token = _count(path, value, "length"), value.get("attend", False), value.get("token")
    if length is None or type(attended) is not bool or not (token is None or isinstance(token, str)):
        raise ModelError(f"{path}: query_expansion is {value!r}, which is not complete")
    return DeclaredExpansion(length, value["strategy"] == "fixed", attended, token)


def _skipped(
    checkpoint: Checkpoint, mask: Module | None, declared: Mapping[str, Any], pylate: bool
) -> dict[str, tuple[str, ...]]:
    """Words whose vectors are not read, of each side."""
    name, config = DECLARED, declared
    tasks: Any = ["document"]
    if mask is not None:
        name, config = mask.config, _object(checkpoint, mask.config)
        tasks = config.get("skiplist_tasks", tasks)
        tasks = [tasks] if isinstance(tasks, str) else tasks
        if config.get("keep_only_token_ids"):
            raise ModelError(f"{checkpoint.folder / name}: keep_only_token_ids is for images: not supported")
    words = config.get("skiplist_words")
    if words is None:
        words = list(string.punctuation) if pylate else []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ModelError(f"{checkpoint.folder / name}: skiplist_words is {words!r}, not a list of words")
    if not isinstance(tasks, list) or not set(tasks) <= set(_SIDES):
        raise ModelError(f"{checkpoint.folder / name}: skiplist_tasks is {tasks!r}; known are {', '.join(_SIDES)}")
    return {side: tuple(words) if side in tasks and (mask or pylate) else () for side in _SIDES}


def _normalizes(checkpoint: Checkpoint, last: Module) -> bool:
    if last.kind != "Normalize":
        return False
    config = _object(checkpoint, last.config)
    feature = config.get("module_input_name", "sentence_embedding")
    result = config.get("module_output_name") or feature
    for key, name in (("module_input_name", feature), ("module_output_name", result)):
        if name != "token_embeddings":
            raise ModelError(
                f"{checkpoint.folder / last.config}: {key} is {name!r}, not token_embeddings: not supported"
            )
    return True


def _is_mean(path: Path, declared: Mapping[str, Any]) -> bool:
    name = declared.get("similarity_fn_name")
    if name not in ("maxsim", "meanmaxsim", *_NOT_MAX_SIM):
        raise ModelError(f"{path}: similarity_fn_name is {name!r}; supported are maxsim and meanmaxsim")
    return bool(name == "meanmaxsim")


def _readout(layers: Sequence[Layer], normalized: bool, hidden_size: int = 0) -> VectorsReadout:
    return VectorsReadout(layers[-1].outputs if layers else hidden_size, tuple(layers), normalized)


def _whole(tokens: float | None) -> int | None:
    return None if tokens is None else int(tokens)


def _count(path: Path, config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is not None and (type(value) is not int or value < 1):
        raise ModelError(f"{path}: {key} is {value!r}, not a whole number above 0")
    return value


def _object(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The object in a file of the folder, an empty one if there is no such file."""
    value = checkpoint.read(name, {})
    if not isinstance(value, dict):
        raise ModelError(f"{checkpoint.folder / name} is not an object")
    return value
