"""Language models as kinds of models: those that answer yes or no, and what they were converted to."""

from __future__ import annotations

from typing import Any

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.chat_template import chat_templates, require_words
from reranker_serve.families.kinds import (
    Kind,
    check_frequencies,
    check_one_label,
    narrowed,
    refuse_prompt,
    require_values,
)
from reranker_serve.families.labels import check_no_then_yes
from reranker_serve.families.modular import check_modules, has_head, read_head, read_pair_config
from reranker_serve.families.modules import Module, read_modules, read_tensor_layer
from reranker_serve.families.prompts import NEMOTRON, PROMPTS, Prompt
from reranker_serve.families.transformer_module import check_transformer
from reranker_serve.families.yes_no import YesNo
from reranker_serve.readouts import ClassifierReadout, HeadReadout, NextTokenReadout, Pooling, Readout
from reranker_serve.settings import Settings
from reranker_serve.types import Family

_BACKBONES = ("Qwen3", "Qwen2", "Gemma", "Llama", "Mistral")
LANGUAGE_MODELS = tuple(f"{name}ForCausalLM" for name in _BACKBONES)
# Those whose head was cut down to the answers' rows, or to their difference.
CONVERTED_LANGUAGE_MODELS = tuple(f"{name}ForSequenceClassification" for name in _BACKBONES)
# Those with a head in modules of its own.
MODULAR_LANGUAGE_MODELS = tuple(f"{name}Model" for name in _BACKBONES)
# Llama without a causal mask, which needs none of the code that it is published with.
BIDIRECTIONAL = "LlamaBidirectionalForSequenceClassification"

_POOLING: dict[str, Pooling] = {"avg": "mean", "cls": "cls", "last": "last"}


def choose_prompt(checkpoint: Checkpoint, settings: Settings) -> Prompt:
    """The prompt of a language model: the one that is set, else the one its files declare.

    Raises `StartupError` rather than guess: with another prompt the scores would be noise.
    """
    known = ", ".join(PROMPTS)
    if settings.prompt is not None:
        if settings.prompt not in PROMPTS:
            raise SettingsError(f"RERANKER_PROMPT={settings.prompt} is not known; known prompts are {known}")
        return PROMPTS[settings.prompt]
    # Of two with the same words, which differ in how a text begins, the one that was made for such a model.
    for prompt in sorted(PROMPTS.values(), key=lambda prompt: prompt.model_type != checkpoint.config.get("model_type")):
        if _declares(checkpoint, prompt, settings.served_name):
            return prompt
    raise ModelError(
        f"{checkpoint.folder}: nothing in its files tells which prompt this {checkpoint.architecture} was trained"
        " with as a reranker, and without it the scores mean nothing; if it is one, set RERANKER_PROMPT to one of"
        f" {known}"
    )


def _yes_no(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    return _build(checkpoint, settings, max_length, read_answers(checkpoint))


def _converted(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    return _build(checkpoint, settings, max_length, ClassifierReadout(checkpoint.labels))


def _modular(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    return _build(checkpoint, settings, max_length, read_head(checkpoint))


def _build(checkpoint: Checkpoint, settings: Settings, max_length: int, readout: Readout | None) -> Family:
    prompt, texts = choose_prompt(checkpoint, settings), read_pair_config(checkpoint)
    # Of what its publisher has by this name, the prompt is known better than from a template.
    if settings.prompt is None and not _named(prompt, {settings.served_name, checkpoint.folder.name}):
        require_words(checkpoint, prompt, texts.query_prompt)
    if settings.instruction is not None and not prompt.takes_instruction:
        raise SettingsError(f"RERANKER_INSTRUCTION is set, but the prompt {prompt.name} has no place for one: unset it")
    return YesNo(
        checkpoint.folder,
        prompt,
        narrowed(max_length, texts.max_length, settings),
        shift=prompt.shift_of(checkpoint.hidden_size),
        readout=readout,
        instruction=texts.query_prompt or None,
        trusted=settings.trust_text,
    )


def _bidirectional(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    refuse_prompt(checkpoint, settings)
    temperature = _temperature(checkpoint)
    readout = _pooled_score(checkpoint)
    trusted = settings.trust_text
    return YesNo(checkpoint.folder, NEMOTRON, max_length, readout=readout, temperature=temperature, trusted=trusted)


def read_answers(checkpoint: Checkpoint) -> NextTokenReadout | None:
    """The tokens of sentence-transformers' LogitScore; None where the folder has none. Raises `ModelError`."""
    for module in read_modules(checkpoint):
        if module.kind == "LogitScore":
            keys = ["true_token_id", "false_token_id"]
            if checkpoint.read_object(module.config).get(keys[1]) is None:
                del keys[1]
            return NextTokenReadout(tuple(_token(checkpoint, module, key) for key in keys))
    return None


def _token(checkpoint: Checkpoint, module: Module, key: str) -> int:
    found = checkpoint.read_object(module.config).get(key)
    if type(found) is not int or not 0 <= found < (checkpoint.vocabulary or found + 1):
        raise ModelError(f"{checkpoint.folder / module.config}: {key} is {found!r}, which is no token of this model")
    return found


def _pooled_score(checkpoint: Checkpoint) -> HeadReadout:
    declared = checkpoint.config.get("pooling", "avg")
    if not isinstance(declared, str) or declared not in _POOLING:
        known = ", ".join(_POOLING)
        raise ModelError(f"{checkpoint.folder / 'config.json'}: pooling is {declared!r}; supported are {known}")
    return HeadReadout(_POOLING[declared], (read_tensor_layer(checkpoint, "score", checkpoint.hidden_size, 1),))


def _temperature(checkpoint: Checkpoint) -> float:
    declared: Any = checkpoint.config.get("temperature", 1.0)
    if type(declared) not in (int, float) or not declared > 0:
        raise ModelError(f"{checkpoint.folder / 'config.json'}: temperature is {declared!r}, not a number above 0")
    return float(declared)


def _declares(checkpoint: Checkpoint, prompt: Prompt, served_name: str) -> bool:
    """Whether the files tell that this prompt is the model's: by its text, its repository or its shape."""
    config = checkpoint.config
    if _named(prompt, {served_name, config.get("_name_or_path"), checkpoint.folder.name}):
        return True
    if prompt.sign is not None and any(prompt.sign in text for text in chat_templates(checkpoint)):
        return True
    # sentence-transformers' metadata speaks for another prompt, or for an embedding model.
    shape = (config.get("vocab_size"), checkpoint.hidden_size, config.get("num_hidden_layers"))
    return config.get("model_type") == prompt.model_type and shape in prompt.shapes and not checkpoint.has_modules


def _named(prompt: Prompt, names: set[Any]) -> bool:
    """Whether one of these is that of a repository which the prompt is published for, or of its folder here."""
    return not names.isdisjoint(
        name for repository in prompt.repositories for name in (repository, repository.replace("/", "_"))
    )


def _check_causal(checkpoint: Checkpoint) -> None:
    """All documents share what stands before them, which must not depend on them."""
    wanted = {"is_causal": True, "use_bidirectional_attention": False}
    require_values(checkpoint, wanted, "such a language model sees backwards only")
    check_frequencies(checkpoint)


def _check_answers(checkpoint: Checkpoint) -> None:
    _check_causal(checkpoint)
    check_modules(checkpoint, "text-generation", "Transformer", "LogitScore")
    read_answers(checkpoint)


def _check_one_or_two_labels(checkpoint: Checkpoint) -> None:
    _check_causal(checkpoint)
    check_modules(checkpoint, "sequence-classification", "Transformer")
    if checkpoint.labels == 2:
        check_no_then_yes(checkpoint)
    if checkpoint.labels not in (1, 2):
        raise ModelError(
            f"{checkpoint.folder}: a reranker has one label, or one for no and one for yes, this classifier has"
            f" {checkpoint.labels}: it is no reranker"
        )


def _check_last_token(checkpoint: Checkpoint) -> None:
    _check_causal(checkpoint)
    check_transformer(checkpoint)
    mode = read_head(checkpoint).mode
    if mode != "last":
        raise ModelError(
            f"{checkpoint.folder}: pooling {mode} of a language model is not supported: only its last token has read"
            " the whole pair"
        )


def _check_bidirectional(checkpoint: Checkpoint) -> None:
    check_frequencies(checkpoint)
    _temperature(checkpoint)
    check_one_label(checkpoint)


LANGUAGE_MODEL = Kind(
    "language model",
    LANGUAGE_MODELS,
    lambda checkpoint: checkpoint.architecture in LANGUAGE_MODELS,
    _yes_no,
    _check_answers,
)
CONVERTED_LANGUAGE_MODEL = Kind(
    "converted language model",
    CONVERTED_LANGUAGE_MODELS,
    lambda checkpoint: checkpoint.architecture in CONVERTED_LANGUAGE_MODELS,
    _converted,
    _check_one_or_two_labels,
)
MODULAR_LANGUAGE_MODEL = Kind(
    "modular language model",
    MODULAR_LANGUAGE_MODELS,
    lambda checkpoint: checkpoint.architecture in MODULAR_LANGUAGE_MODELS and has_head(checkpoint),
    _modular,
    _check_last_token,
)
BIDIRECTIONAL_LANGUAGE_MODEL = Kind(
    "bidirectional language model",
    (BIDIRECTIONAL,),
    lambda checkpoint: checkpoint.architecture == "LlamaModel" and checkpoint.config.get("is_causal") is False,
    _bidirectional,
    _check_bidirectional,
)
