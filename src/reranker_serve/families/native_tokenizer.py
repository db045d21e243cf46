"""A checkpoint's tokenizer as transformers reads it: the one that the published scores were made with.

`tokenizer.json` alone is not all: `tokenizer_config.json` and its kin may change letter case, accents, blanks and
control tokens over it, in another way for each tokenizer class. So transformers' own reading is what we start from.
"""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from reranker_serve.collection import no_collections
from reranker_serve.errors import ModelError, reason

logger = logging.getLogger(__name__)

_OLDER_VOCABULARIES = ("vocab.txt", "vocab.json", "*.model", "*.codes")
_SENTENCEPIECE = ("sentencepiece", "google.protobuf")
_MODEL_TYPE = re.compile(r'"model"\s*:\s*\{\s*"type"\s*:\s*"(\w+)"')


def read_published(folder: Path) -> Any:
    """transformers' tokenizer of a folder, which has a `backend_tokenizer`. Runs no code of the folder's.

    Raises `ModelError`, one line that says what to add.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        _require_older_vocabulary(folder)
        try:
            tokenizer = _read(folder)
        except Exception as error:  # whatever transformers' many readers raise
            raise _unreadable(folder, error) from None
        return _with_backend(tokenizer, folder)
    declared = _model_type(file)
    try:
        tokenizer = _read(folder)
    except Exception as error:
        return _read_file_alone(folder, reason(error))
    made = type(_with_backend(tokenizer, folder).backend_tokenizer.model).__name__
    if declared not in (None, made):
        # Some classes rebuild the tokenizer from its vocabulary, and this vocabulary is of another kind.
        return _read_file_alone(folder, f"{type(tokenizer).__name__} makes {made} of its {declared} vocabulary")
    return tokenizer


def _model_type(file: Path) -> str | None:
    """`BPE`, `Unigram`, ...; None where an older file does not say."""
    try:
        found = _MODEL_TYPE.search(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(file.parent, error) from None
    return found[1] if found else None


def _read(folder: Path) -> Any:
    with no_collections():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _read_file_alone(folder: Path, why: str) -> Any:
    """The tokenizer.json, and of the other files the control tokens only, as transformers 4 would read it."""
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise _unreadable(folder, error) from None
    logger.warning("%s: using tokenizer.json, not the class that tokenizer_config.json names: %s", folder, why)
    return tokenizer


def _with_backend(tokenizer: Any, folder: Path) -> Any:
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise ModelError(
            f"the tokenizer in {folder} has no fast version ({type(tokenizer).__name__} is Python code): add its"
            " tokenizer.json, which its publisher may have or a conversion makes"
        )
    return tokenizer


def _require_older_vocabulary(folder: Path) -> None:
    """transformers would build a tokenizer that knows nothing."""
    found = sorted(path.name for pattern in _OLDER_VOCABULARIES for path in folder.glob(pattern))
    if not found:
        raise ModelError(f"{folder} has no tokenizer: tokenizer.json is missing; download the model again")
    if found[0].endswith(".model") and not all(map(_installed, _SENTENCEPIECE)):
        raise ModelError(
            f"{folder} has {found[0]} and no tokenizer.json, and reading it needs two more packages:"
            " pip install sentencepiece protobuf; or add the model's tokenizer.json"
        )


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent
        return False


def _unreadable(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"the tokenizer in {folder} cannot be loaded: {reason(error)} (add its tokenizer.json, or download the model"
        " again)"
    )
