"""A folder's chat template, rendered to see whether it is the prompt that it looks like.

sentence-transformers renders it for each pair. Here a prompt of `prompts.py` stands in its place, so the two must be
the same words.
"""

from __future__ import annotations

import re
from typing import Any

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, reason
from reranker_serve.families.prompts import Prompt
from reranker_serve.families.transformer_module import read_transformer

_FILE, _CONFIG = "chat_template.jinja", "tokenizer_config.json"
_TEXTS = {"query": "what is light", "document": "The sun"}
_TOLD = "Find what is asked for"


def chat_templates(checkpoint: Checkpoint) -> list[str]:
    """Those that a folder has, the one that transformers takes by default first."""
    path, declared = checkpoint.folder / _FILE, checkpoint.read_object(_CONFIG).get("chat_template")
    rows = declared if isinstance(declared, list) else [{"name": "default", "template": declared}]
    named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("template"), str)]
    found = [str(row["template"]) for row in sorted(named, key=lambda row: row.get("name") != "default")]
    return [path.read_text(encoding="utf-8", errors="replace"), *found] if path.is_file() else found


def require_words(checkpoint: Checkpoint, prompt: Prompt, told: str) -> None:
    """Raises `ModelError` where the chat template is that of a reranker, but not `prompt` to the letter.

    `told` is the instruction that the folder declares.
    """
    template = next(iter(chat_templates(checkpoint)), "")
    if prompt.sign is None or prompt.sign not in template:
        return
    instructions = [told or None, _TOLD] if prompt.takes_instruction else [None]
    try:
        same = all(_rendered(checkpoint, template, one) == _words(prompt, one) for one in instructions)
        why = "has other words than"
    except Exception as error:  # whatever jinja raises, and a template by itself
        same, why = False, f"cannot be rendered ({reason(error)}), so nothing tells whether it is"
    if not same:
        raise ModelError(
            f"{checkpoint.folder}: its chat_template {why} the prompt {prompt.name}: if the model was trained with that"
            f" prompt all the same, set RERANKER_PROMPT={prompt.name}"
        )


def _words(prompt: Prompt, instruction: str | None) -> str:
    values = _TEXTS | {"instruction": instruction or prompt.instruction}
    pieces = [piece for piece in prompt.pieces if values["instruction"] or "{instruction}" not in piece]
    return re.sub(r"\{(\w+)\}", lambda field: str(values[field[1]]), "".join(pieces))


def _rendered(checkpoint: Checkpoint, template: str, instruction: str | None) -> str:
    """As sentence-transformers has it rendered, in jinja's sandbox."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _, declared = read_transformer(checkpoint)
    message = (declared.get("modality_config") or {}).get("message") or {}
    structured = message.get("format") == "structured"
    chat = {**({} if instruction is None else {"system": instruction}), **_TEXTS}
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if structured else text}
        for role, text in chat.items()
    ]
    options = (declared.get("processing_kwargs") or {}).get("chat_template") or {}
    made: Any = render_jinja_template([messages], chat_template=template, **_tokens(checkpoint), **options)
    return str(made[0][0])  # the first of the texts, beside which are marks


def _tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """`bos_token` and its kin, as a template may name them."""
    declared = checkpoint.read_object(_CONFIG).items()
    return {
        name: token["content"] if isinstance(token, dict) and "content" in token else token
        for name, token in declared
        if name.endswith("_token") and not name.startswith(("add_", "use_"))
    }
