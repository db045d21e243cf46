"""What a folder on this machine is: a model, of which revision, a part of one, or a cache that holds some."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from reranker_serve.checkpoint import weight_files
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.weight_formats import NO_WEIGHTS, unreadable

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "*.codes")
_OF_A_MODEL = ("config.json", "modules.json")
_SHOWN = 3
# What huggingface_hub allows a file to have changed after it noted when it wrote it, in seconds.
_CLOCK = 1.0
# Of a file of weights this much is read to tell it from others.
_PIECES, _PIECE_BYTES = 64, 4096
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies on disk, and which revision of it: a commit, or `local-` and digits that other weights would
    not have where none is known."""

    folder: Path
    revision: str


def given_folder(folder: Path, revision: str | None) -> ModelFiles:
    """A folder that the settings name. Raises `StartupError` where it holds something else, or another revision."""
    _require_model(folder)
    found = revision_of(folder)
    if revision is not None and not is_revision(folder, revision):
        known = f"is of revision {found}" if found else "does not tell its revision"
        raise SettingsError(f"RERANKER_MODEL_REVISION={revision} is set, but the folder {folder} {known}: unset it")
    return files_of(folder)


def files_of(folder: Path) -> ModelFiles:
    return ModelFiles(folder, revision_of(folder) or _own_revision(folder))


def revision_of(folder: Path) -> str | None:
    """The commit a folder was fetched from, where all of it is as it was then."""
    resolved = folder.resolve()
    if resolved.parent.name == "snapshots":
        return resolved.name
    notes = folder / ".cache" / "huggingface" / "download"
    commits = {_commit(note, folder / note.relative_to(notes).with_suffix("")) for note in notes.rglob("*.metadata")}
    return commits.pop() if len(commits) == 1 else None


def _own_revision(folder: Path) -> str:
    """By pieces of each file of weights, as all of them would take seconds to read."""
    digest = sha256()
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors"))):
        with suppress(OSError), path.open("rb") as file:  # loading it will tell
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder)} {size} ".encode())
            for piece in range(_PIECES):
                file.seek(piece * max(0, size - _PIECE_BYTES) // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return f"local-{digest.hexdigest()[:12]}"


def is_revision(folder: Path, revision: str) -> bool:
    """Whether a folder is known to be of `revision`: a commit, the beginning of one, or a name in a hub's cache."""
    found = revision_of(folder)
    if found is None:
        return False
    named = folder.resolve().parent.parent / "refs" / revision
    if named.is_file() and named.read_text(encoding="utf-8").strip() == found:
        return True
    return bool(_SHORT_COMMIT.fullmatch(revision)) and found.startswith(revision)


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def has_own_weights(folder: Path) -> bool:
    """Whether weights of a whole model are there, and not an adapter's alone."""
    return any(path.name != ADAPTER_WEIGHTS for path in folder.glob("*.safetensors"))


def is_whole(folder: Path) -> bool:
    """Whether nothing that is always needed is missing, as where a download ended early or was of other files."""
    if is_adapter(folder) and not has_own_weights(folder):
        return (folder / ADAPTER_WEIGHTS).is_file()
    try:
        weights = weight_files(folder)
    except ModelError:
        return False
    return (
        bool(weights)
        and all((folder / name).is_file() for name in ("config.json", *weights))
        and any(path.is_file() for pattern in _TOKENIZERS for path in folder.glob(pattern))
    )


def _require_model(folder: Path) -> None:
    """Raise `ModelError` where a folder is none of a model, and it can be told what it is."""
    if not folder.is_dir() or is_adapter(folder) or any((folder / name).is_file() for name in _OF_A_MODEL):
        return
    found = sorted(str(path) for path in _models_below(folder))
    if found:
        choice = " or ".join(f"RERANKER_MODEL_PATH={path}" for path in found[:_SHOWN])
        more = f" or another of the {len(found)}" if len(found) > _SHOWN else ""
        raise ModelError(f"{folder} is not a model's folder but holds some: set {choice}{more}")
    names = (str(path.relative_to(folder)) for pattern in ("*", "*/*") for path in folder.glob(pattern))
    why = unreadable(names)
    if why not in (None, NO_WEIGHTS):
        raise ModelError(f"{folder} has {why}")


def _models_below(folder: Path) -> Iterator[Path]:
    """The models in a cache of the hub, in a folder above or inside it, or where models were downloaded to."""
    for pattern in ("snapshots/*", "models--*/snapshots/*", "hub/models--*/snapshots/*", "*"):
        for path in folder.glob(pattern):
            if (path / "config.json").is_file() or is_adapter(path):
                yield path


def _commit(note: Path, file: Path) -> str | None:
    """The commit that huggingface_hub noted beside a file it wrote: commit, ETag and time, a line each."""
    try:
        commit, _, written = note.read_text(encoding="utf-8").split()
        return commit if file.stat().st_mtime <= float(written) + _CLOCK else None
    except (OSError, ValueError):
        return None
