"""Who is compared: what the command line names, and what each does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from reranker_serve.demo import MODEL_NAME, demo_folder
from reranker_serve.errors import SettingsError, StartupError
from reranker_serve.model_names import as_path
from reranker_serve.settings import Settings
from reranker_serve.tools.remote import Remote

_PRECISIONS: Mapping[str, Mapping[str, Any]] = {
    "int8": {"quantization": "int8"},
    "float32": {"use_fp16": False, "quantization": "none"},
}


class Ranker(Protocol):
    """One that answers."""

    @property
    def about(self) -> dict[str, Any]:
        """What it said of itself."""

    def score(self, query: str, documents: Sequence[str]) -> tuple[list[float], float]:
        """A score for each document, in their order, and the seconds it took. Raises `StartupError` with one line."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Local:
    """A model of this machine's."""

    settings: Settings

    @property
    def identity(self) -> dict[str, Any]:
        """What its scores depend on, as far as can be told before it is loaded."""
        folder = self.settings.model_folder
        changed = (
            max((file.stat().st_mtime for file in folder.rglob("*") if file.is_file()), default=0) if folder else 0
        )
        kept = ("model_revision", "max_length", "prompt", "instruction", "trust_text", "use_fp16", "quantization")
        told = {name: getattr(self.settings, name) for name in kept}
        return {"model": str(folder.resolve()) if folder else self.settings.model_name, "changed": changed} | told


@dataclass(frozen=True, slots=True)
class Contestant:
    """`label` is what it is called: the argument, numbered where it comes again."""

    label: str
    where: Local | Remote


def contestants(names: Sequence[str], keys: Sequence[str], settings: Settings) -> list[Contestant]:
    """`keys` are the servers', in their order. Raises `StartupError` with one line."""
    left = list(keys)
    found: list[Contestant] = []
    for position, name in enumerate(names):
        again = names[:position].count(name)
        label = f"{name} ({again + 1})" if again else name
        if name.startswith(("http://", "https://")):
            found.append(Contestant(label, Remote.parse(name, left.pop(0) if left else None)))
        else:
            found.append(Contestant(label, Local(_settings_of(name, settings))))
    if left:
        raise StartupError(f"there are {len(left)} more --key than servers")
    return found


def _settings_of(name: str, settings: Settings) -> Settings:
    """`MODEL`, `MODEL@int8`, `MODEL@float32`, `MODEL@max_length=256,prompt=qwen3`."""
    model, _, changes = name.rpartition("@")
    changed: dict[str, Any] = {}
    for change in changes.split(",") if model else []:
        field, equals, value = change.partition("=")
        if change in _PRECISIONS:
            changed.update(_PRECISIONS[change])
        elif equals and field in Settings.model_fields:
            changed[field] = value
        else:
            known = ", ".join(_PRECISIONS)
            raise StartupError(f"{name}: {change!r} is none of {known}, and no setting as in @max_length=256")
    return _valid(settings, _model(model or name) | changed, name)


def _model(name: str) -> dict[str, Any]:
    if name == "demo":
        return {"model_path": demo_folder(), "model_name": MODEL_NAME}
    folder = as_path(name)
    if folder and not Path(folder).is_dir():
        raise StartupError(f"{name} is no folder")
    return {"model_path": folder} if folder else {"model_path": None, "model_name": name}


def _valid(settings: Settings, changed: Mapping[str, Any], name: str) -> Settings:
    # Nothing here is asked by strangers: all requests are let in, every pair is computed, and all of them come back.
    free: dict[str, Any] = {
        "max_queue_seconds": 86_400,
        "request_timeout": 86_400,
        "batch_timeout": 86_400,
        "cache_entries": 0,
    }
    free |= {"calibration": None, "min_score": None, "min_probability": None}
    kept = settings.model_dump(exclude_unset=True, exclude={"model_name"})
    try:
        return Settings.model_validate({**kept, **free, **changed})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingsError(f"{name}: {first['loc'][0]} is not valid: {first['msg']}") from None
