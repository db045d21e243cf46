"""Language models as kinds of models: those that answer yes or no, and what they were converted to."""

from __future__ import annotations

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.kinds import Kind, check_one_label
from reranker_serve.families.prompts import PROMPTS, Prompt
from reranker_serve.families.yes_no import YesNo
from reranker_serve.settings import Settings
from reranker_serve.types import Family

LANGUAGE_MODELS = ("Qwen3ForCausalLM", "Qwen2ForCausalLM", "GemmaForCausalLM")
# Those whose head was cut down to the difference of the two answers' rows.
CONVERTED_LANGUAGE_MODELS = ("Qwen3ForSequenceClassification",)


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


def _yes_no(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    return _build(checkpoint, settings, max_length, classifier=False)


def _converted(checkpoint: Checkpoint, settings: Settings, max_length: int) -> Family:
    return _build(checkpoint, settings, max_length, classifier=True)


def _build(checkpoint: Checkpoint, settings: Settings, max_length: int, *, classifier: bool) -> Family:
    prompt = choose_prompt(checkpoint, settings)
    if settings.instruction is not None and not prompt.takes_instruction:
        raise SettingsError(f"RERANKER_INSTRUCTION is set, but the prompt {prompt.name} has no place for one: unset it")
    shift = prompt.shift_of(checkpoint.hidden_size)
    return YesNo(checkpoint.folder, prompt, max_length, shift, classifier, settings.trust_text)


def _declares(checkpoint: Checkpoint, prompt: Prompt, served_name: str) -> bool:
    """Whether the files tell that this prompt is the model's: by its text, its repository or its vocabulary."""
    config = checkpoint.config
    names = {served_name, config.get("_name_or_path"), checkpoint.folder.name}
    if names & {name for repository in prompt.repositories for name in (repository, repository.replace("/", "_"))}:
        return True
    if prompt.sign in _chat_template(checkpoint):
        return True
    # sentence-transformers' metadata speaks for another prompt, or for an embedding model.
    vocabulary = int(config.get("vocab_size") or 0)
    fits = config.get("model_type") == prompt.model_type and 0 < vocabulary <= prompt.vocabulary
    return fits and not checkpoint.has_modules


def _chat_template(checkpoint: Checkpoint) -> str:
    paths = [checkpoint.folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file())


LANGUAGE_MODEL = Kind(
    "language model",
    LANGUAGE_MODELS,
    lambda checkpoint: checkpoint.architecture in LANGUAGE_MODELS,
    _yes_no,
)
CONVERTED_LANGUAGE_MODEL = Kind(
    "converted language model",
    CONVERTED_LANGUAGE_MODELS,
    lambda checkpoint: checkpoint.architecture in CONVERTED_LANGUAGE_MODELS,
    _converted,
    check_one_label,
)
