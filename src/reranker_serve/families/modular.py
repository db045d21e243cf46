"""Cross-encoders that are a row of modules: a bare encoder, pooling, and a head in folders of its own.

sentence-transformers writes them since 5.4; ettin-reranker is one. What their `activation_fn` is for is told by
`relevance_score` here: the raw score is what the head gives, before any activation.
"""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError
from reranker_serve.families.cross_encoder import PairConfig
from reranker_serve.families.modules import Module, read_layers, read_modules, read_pooling
from reranker_serve.families.transformer_module import Task, check_transformer, read_max_length, read_transformer
from reranker_serve.readouts import HeadReadout

_METADATA = "config_sentence_transformers.json"
_CROSS_ENCODER, _FEATURE, _SCORES = "CrossEncoder", "sentence_embedding", "scores"


def has_head(checkpoint: Checkpoint) -> bool:
    """Whether a folder of modules holds a cross-encoder, which else would be an embedding model."""
    if not checkpoint.has_modules:
        return False
    if _is_saved(checkpoint):
        return True
    last = read_modules(checkpoint)[-1:]
    return any(checkpoint.read_object(module.config).get("module_output_name") == _SCORES for module in last)


def read_head(checkpoint: Checkpoint) -> HeadReadout:
    """The head that the modules are. Raises `ModelError` with one line on what is not supported."""
    folder = checkpoint.folder
    # What is dropped while training is all there afterwards.
    modules = [module for module in read_modules(checkpoint) if module.kind != "Dropout"]
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or len(kinds) < 3 or not set(kinds[2:]) <= {"Dense", "LayerNorm"}:
        raise ModelError(
            f"{folder / 'modules.json'}: the modules {', '.join(kinds) or '(none)'} are not supported; a cross-encoder"
            f" of {checkpoint.architecture} may have Transformer and Pooling, and after them Dense and LayerNorm"
        )
    prompted = bool(read_pair_config(checkpoint).query_prompt)
    mode = read_pooling(checkpoint, modules[1], prompted=prompted)
    layers = read_layers(checkpoint, modules[2:], checkpoint.hidden_size, _FEATURE, _SCORES)
    _check_result(checkpoint, modules[-1], layers[-1].outputs)
    return HeadReadout(mode, layers)


def read_pair_config(checkpoint: Checkpoint) -> PairConfig:
    """As sentence-transformers' `predict` has it when it is asked for nothing else. Raises `ModelError`."""
    if not _is_saved(checkpoint):
        return PairConfig()
    path, declared = checkpoint.folder / _METADATA, checkpoint.read_object(_METADATA)
    prompts, chosen = declared.get("prompts") or {}, declared.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise ModelError(f"{path}: prompts is {prompts!r}, not an object")
    prompt = "" if chosen is None else prompts.get(chosen, 0)
    if not isinstance(prompt, str | None):
        raise ModelError(f"{path}: default_prompt_name is {chosen!r}, by which prompts has no text: correct it")
    _, transformer = read_transformer(checkpoint)
    longest = None if transformer.get("max_seq_length") is None else read_max_length(checkpoint)
    return PairConfig(prompt or "", bool(transformer.get("do_lower_case")), longest)


def check_modules(checkpoint: Checkpoint, task: Task, *kinds: str) -> None:
    """Raises `ModelError` where a cross-encoder was saved for another task, or with modules that are not `kinds`."""
    if not _is_saved(checkpoint):
        return
    check_transformer(checkpoint, task=task)
    found = [module.kind for module in read_modules(checkpoint)]
    if found != [*kinds]:
        raise ModelError(
            f"{checkpoint.folder / 'modules.json'}: the modules {', '.join(found) or '(none)'} are not supported; a"
            f" cross-encoder of {checkpoint.architecture} may have {' and '.join(kinds)}"
        )


def _is_saved(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers goes by its own files; it looks at none where there are no modules, and takes those
    of other models for the transformer alone."""
    return checkpoint.has_modules and checkpoint.read_object(_METADATA).get("model_type") == _CROSS_ENCODER


def _check_result(checkpoint: Checkpoint, last: Module, outputs: int) -> None:
    path = checkpoint.folder / last.config
    if last.kind != "Dense":
        raise ModelError(
            f"{path}: a {last.kind} is the last module, but scores are made by a Dense: the head is missing"
        )
    if outputs != 1:
        raise ModelError(f"{path}: out_features is {outputs}, but a reranker has one label: it is no reranker")
