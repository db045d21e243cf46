"""Which family serves a checkpoint, from what its files declare; never from a part of its name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.bi_encoder import BiEncoder, read_embedding_config
from reranker_serve.families.cross_encoder import CrossEncoder
from reranker_serve.families.prompts import PROMPTS, Prompt
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.families.yes_no import YesNo
from reranker_serve.settings import Settings
from reranker_serve.types import Family

CROSS_ENCODERS = (
    "XLMRobertaForSequenceClassification",
    "RobertaForSequenceClassification",
    "BertForSequenceClassification",
    "DistilBertForSequenceClassification",
    "ElectraForSequenceClassification",
    "ModernBertForSequenceClassification",
    "DebertaV2ForSequenceClassification",
)
EMBEDDING_MODELS = (
    "XLMRobertaModel",
    "RobertaModel",
    "BertModel",
    "DistilBertModel",
    "ElectraModel",
    "ModernBertModel",
    "MPNetModel",
)
LANGUAGE_MODELS = ("Qwen3ForCausalLM", "Qwen2ForCausalLM", "GemmaForCausalLM")
# Language models whose head was cut down to the difference of the two answers' rows.
CONVERTED_LANGUAGE_MODELS = ("Qwen3ForSequenceClassification",)
# Their position table starts behind the padding index, so two rows of it are never used.
_POSITIONS_AFTER_PADDING = ("xlm-roberta", "roberta", "mpnet")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder that was read: its `config.json` and what is beside it."""

    folder: Path
    config: dict[str, Any]

    @property
    def is_language_model(self) -> bool:
        return self.architecture in (*LANGUAGE_MODELS, *CONVERTED_LANGUAGE_MODELS)

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or ["none declared"])[0])

    @property
    def positions(self) -> int:
        """Longest sequence the model has positions for."""
        declared = int(self.config.get("max_position_embeddings") or 512)
        return declared - 2 if self.config.get("model_type") in _POSITIONS_AFTER_PADDING else declared

    @property
    def vocabulary(self) -> int | None:
        """How many token ids the model knows, where it says so."""
        declared: int | None = self.config.get("vocab_size")
        return declared

    @property
    def hidden_size(self) -> int:
        return int(self.config.get("hidden_size") or self.config["dim"])


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a model folder. Raises `ModelError` with one line that says what is wrong."""
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}: download one with ./download_model.sh MODEL DIR")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no model: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a model's configuration")
    _check_config(folder / "config.json", config)
    checkpoint = Checkpoint(folder, config)
    _check_architecture(checkpoint)
    _check_weights(folder)
    return checkpoint


def build_family(checkpoint: Checkpoint, settings: Settings) -> Family:
    """The family for a checkpoint, its tokenizer loaded.

    A `max_length` above what the model has positions for is an error where it was set, and
    narrowed where it is the default.
    """
    explicit, positions = "max_length" in settings.model_fields_set, checkpoint.positions
    if explicit and settings.max_length > positions:
        raise SettingsError(
            f"RERANKER_MAX_LENGTH={settings.max_length}, but {checkpoint.folder.name} has {positions} positions:"
            f" set it to {positions} or less"
        )
    max_length = min(settings.max_length, positions)
    if checkpoint.is_language_model:
        return _language_model(checkpoint, settings, max_length)
    if settings.prompt is not None or settings.instruction is not None:
        name = "RERANKER_PROMPT" if settings.prompt is not None else "RERANKER_INSTRUCTION"
        raise SettingsError(f"{name} is set, but {checkpoint.architecture} is no language model: unset it")
    trusted = settings.trust_text
    if checkpoint.architecture in CROSS_ENCODERS:
        encoder = TextEncoder(checkpoint.folder, checkpoint.vocabulary, trusted=trusted)
        return CrossEncoder(encoder, max_length if explicit else int(min(max_length, encoder.longest)))
    config = read_embedding_config(checkpoint.folder)
    own = (config.query_prompt, config.document_prompt)
    encoder = TextEncoder(
        checkpoint.folder, checkpoint.vocabulary, own=own, lowercase=config.lowercase, trusted=trusted
    )
    if encoder.truncation_side == "left":
        raise ModelError(
            f"{checkpoint.folder / 'tokenizer_config.json'}: truncation_side is left, which would take the prompt of an"
            " embedding model: it is not supported; set it to right, and long texts lose their end"
        )
    if not explicit and config.max_length:
        max_length = int(min(max_length, config.max_length))
    return BiEncoder(encoder, config, checkpoint.hidden_size, max_length)


def choose_prompt(checkpoint: Checkpoint, settings: Settings) -> Prompt:
    """The prompt of a language model: the one that is set, else the one its files declare.

    Raises `StartupError` rather than guess: with another prompt the scores would be noise.
    """
    known = ", ".join(PROMPTS)
    if settings.prompt is not None:
        if settings.prompt not in PROMPTS:
            raise SettingsError(f"RERANKER_PROMPT={settings.prompt} is not known; known prompts are {known}")
        return PROMPTS[settings.prompt]
    for prompt in PROMPTS.values():
        if _declares(checkpoint, prompt, settings.served_name):
            return prompt
    raise ModelError(
        f"{checkpoint.folder}: nothing in its files tells which prompt this {checkpoint.architecture} was trained"
        " with as a reranker, and without it the scores mean nothing; if it is one, set RERANKER_PROMPT to one of"
        f" {known}"
    )


def _language_model(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    prompt = choose_prompt(checkpoint, settings)
    if settings.instruction is not None and not prompt.takes_instruction:
        raise SettingsError(f"RERANKER_INSTRUCTION is set, but the prompt {prompt.name} has no place for one: unset it")
    shift = prompt.shift_of(checkpoint.hidden_size)
    classifier = checkpoint.architecture in CONVERTED_LANGUAGE_MODELS
    return YesNo(checkpoint.folder, prompt, max_length, shift, classifier, settings.trust_text)


def _declares(checkpoint: Checkpoint, prompt: Prompt, served_name: str) -> bool:
    """Whether the files tell that this prompt is the model's: by its text, its repository or its vocabulary."""
    folder, config = checkpoint.folder, checkpoint.config
    names = {served_name, config.get("_name_or_path"), folder.name}
    if names & {name for repository in prompt.repositories for name in (repository, repository.replace("/", "_"))}:
        return True
    if prompt.sign in _chat_template(folder):
        return True
    # sentence-transformers' metadata speaks for another prompt, or for an embedding model.
    described = (folder / "modules.json").is_file()
    vocabulary = int(config.get("vocab_size") or 0)
    return not described and config.get("model_type") == prompt.model_type and 0 < vocabulary <= prompt.vocabulary


def _chat_template(folder: Path) -> str:
    paths = [folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file())


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """What is read of a configuration is of the kind that it should be."""
    for name in ("max_position_embeddings", "hidden_size", "dim", "vocab_size"):
        value = config.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise ModelError(f"{path}: {name} is {value!r}, not a whole number above 0")
    architectures, labels = config.get("architectures"), config.get("id2label")
    if architectures and not (isinstance(architectures, list) and isinstance(architectures[0], str)):
        raise ModelError(f"{path}: architectures is {architectures!r}, not a list of names")
    if labels and not isinstance(labels, dict):
        raise ModelError(f"{path}: id2label is {labels!r}, not an object")


def _check_architecture(checkpoint: Checkpoint) -> None:
    architecture, folder = checkpoint.architecture, checkpoint.folder
    if architecture in (*CROSS_ENCODERS, *CONVERTED_LANGUAGE_MODELS):
        labels = len(checkpoint.config.get("id2label") or {}) or checkpoint.config.get("num_labels", 2)
        if labels != 1:
            raise ModelError(f"{folder}: a reranker has one label, this classifier has {labels}: it is no reranker")
    elif architecture in EMBEDDING_MODELS:
        if not (folder / "modules.json").is_file():
            raise ModelError(
                f"{folder}: {architecture} is served as an embedding model and needs the modules.json of"
                " sentence-transformers beside it"
            )
    elif architecture not in LANGUAGE_MODELS:
        if checkpoint.config.get("auto_map"):
            raise ModelError(
                f"{folder}: {architecture} exists only as code in the model's repository, and such code is not run here"
            )
        known = ", ".join((*CROSS_ENCODERS, *EMBEDDING_MODELS, *LANGUAGE_MODELS, *CONVERTED_LANGUAGE_MODELS))
        raise ModelError(f"{folder}: architecture {architecture} is not supported; supported are {known}")


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any((*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))):
        raise ModelError(
            f"{folder} has pickled weights only, which can run code when loaded: use a version of the model"
            " with model.safetensors, or convert it with transformers' save_pretrained"
        )
    raise ModelError(f"{folder} has no weights: model.safetensors is missing; download the model again")
