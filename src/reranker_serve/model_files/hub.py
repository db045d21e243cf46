"""The model hub and its cache on this machine; what its client raises becomes one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reranker_serve.errors import ModelError
from reranker_serve.weight_formats import unreadable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Weights in safetensors, tokenizers, prompts and configurations, also those in the folders of modules.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.codes", "vocab.*", "artifact.metadata"]
# No pickles, and no copies: other runtimes', another library's, and those kept while training.
_UNWANTED = [
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle"),
    *("onnx/*", "openvino/*", "original/*", "consolidated*", "checkpoint-*/*"),
]
# Seconds the hub may take to tell what it has.
_ANSWER_S = 10
# Of the disk or the folder, while other errors of a download are the connection's.
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model of the hub; `revision` is a commit, tag or branch, None the newest of `main`."""

    model: str
    revision: str | None

    def __str__(self) -> str:
        return self.model if self.revision is None else f"{self.model} at {self.revision}"


# Of a safetensors file: of each tensor by its name its `dtype`, `shape` and `data_offsets`.
Header = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outline:
    """What the hub has at a revision: the header of each file of weights."""

    revision: str
    headers: dict[str, Header]


def cache_folder() -> Path:
    """Where programs that use the hub keep models: `HF_HUB_CACHE`, `HF_HOME`, else below the home folder."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def snapshot(wanted: Wanted, cache: Path) -> Path | None:
    """The model's folder in a cache of the hub, all of it or a part; None where there is none."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(wanted.model, revision=wanted.revision, cache_dir=cache, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, ValueError):
        return None


def commit(wanted: Wanted) -> str | None:
    """The commit that the hub has under the wanted revision; None if it cannot be asked."""
    listed = _listing(wanted)
    return listed[0] if listed is not None else None


def lacks_files(wanted: Wanted, folder: Path) -> bool:
    """Whether the hub has files of the very snapshot in `folder` that are not there. False if it cannot be asked."""
    listed = _listing(wanted)
    if listed is None or listed[0] != folder.name:
        return False
    return not all((folder / name).exists() for name in _of_interest(listed[1]))


def fetch_to_cache(wanted: Wanted, cache: Path, offline: bool) -> Path:
    """The model's folder in a cache of the hub, fetched as far as it is not there or not the newest."""
    advice = (
        f"download it first, with ./download_model.sh {wanted.model} {cache}{_option(wanted)}"
        if offline
        else "check the connection, or download it elsewhere and set RERANKER_MODEL_PATH"
    )
    if not offline:
        _require_weights(wanted)
    with _hub_errors(wanted, advice, cache, "set RERANKER_MODEL_CACHE_DIR"):
        return _fetch(wanted, cache_dir=cache, local_files_only=offline)


def fetch_to_folder(wanted: Wanted, folder: Path) -> None:
    """Fetch the model as plain files in `folder`."""
    _require_weights(wanted)
    with _hub_errors(wanted, "check the connection and try again", folder, "name another folder"):
        _fetch(wanted, local_dir=folder)


def fetch_without_weights(wanted: Wanted, folder: Path) -> Outline:
    """Fetch the model's other files to `folder`, and of its weights what their headers tell."""
    from huggingface_hub import HfApi

    _require_weights(wanted)
    with _hub_errors(wanted, "check the connection and try again", folder, "set TMPDIR"):
        info = HfApi().model_info(wanted.model, revision=wanted.revision, timeout=_ANSWER_S)
        _fetch(Wanted(wanted.model, info.sha), "*.safetensors", local_dir=folder)
        weights = [name for name in _of_interest(file.rfilename for file in info.siblings or []) if _is_weights(name)]
        headers = {name: _header(HfApi(), wanted.model, name, str(info.sha)) for name in weights}
    return Outline(str(info.sha), headers)


def _fetch(wanted: Wanted, *but: str, **where: Any) -> Path:
    """What of a model is read, fetched to `where`, as `snapshot_download` takes it; `but` are patterns left out."""
    from huggingface_hub import snapshot_download

    unwanted = [*_UNWANTED, *but]
    return Path(
        snapshot_download(
            wanted.model, revision=wanted.revision, allow_patterns=_WANTED, ignore_patterns=unwanted, **where
        )
    )


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _header(api: HfApi, model: str, name: str, revision: str) -> Header:
    tensors = api.parse_safetensors_file_metadata(model, name, revision=revision).tensors
    return {
        called: {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": list(tensor.data_offsets)}
        for called, tensor in tensors.items()
    }


def _require_weights(wanted: Wanted) -> None:
    """Raise `ModelError` where the hub has the model in other formats only; judged before any of it is fetched."""
    listed = _listing(wanted)
    why = unreadable(listed[1]) if listed is not None else None
    if why is not None:
        raise ModelError(f"{wanted} has {why}")


def _listing(wanted: Wanted) -> tuple[str, list[str]] | None:
    """The commit and its files; None where the hub does not tell, which a download does in its own words."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(wanted.model, revision=wanted.revision, timeout=_ANSWER_S)
    except Exception:  # of the connection, of the hub, and of names that are none
        return None
    return str(info.sha), [file.rfilename for file in info.siblings or []]


def _of_interest(names: Iterable[str]) -> list[str]:
    return [
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in _WANTED)
        and not any(fnmatch(name, pattern) for pattern in _UNWANTED)
    ]


def _option(wanted: Wanted) -> str:
    return "" if wanted.revision is None else f" --revision {wanted.revision}"


class _hub_errors:
    """Turn what the hub client raises into one line."""

    def __init__(self, wanted: Wanted, advice: str, folder: Path, elsewhere: str) -> None:
        self._wanted = wanted
        self._advice = advice
        self._folder = folder
        self._elsewhere = elsewhere

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from huggingface_hub import errors as hub

        if error is None or isinstance(error, ModelError):
            return
        wanted, model = self._wanted, self._wanted.model
        if isinstance(error, hub.GatedRepoError):
            raise ModelError(f"{model} is gated: accept its terms on the hub and set HF_TOKEN") from None
        if isinstance(error, hub.RepositoryNotFoundError | hub.HFValidationError):
            raise ModelError(f"the hub has no model {model}: check RERANKER_MODEL_NAME") from None
        if isinstance(error, hub.RevisionNotFoundError):
            raise ModelError(f"the hub has no revision {wanted.revision} of {model}: check its name") from None
        if isinstance(error, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled):
            raise ModelError(f"{wanted} is not on this machine and cannot be fetched: {self._advice}") from None
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            reason = os.strerror(error.errno)
            raise ModelError(
                f"{model} cannot be written to {self._folder} ({reason}): make it possible there, or {self._elsewhere}"
            ) from None
        if isinstance(error, Exception):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"downloading {model} failed ({reason}): {self._advice}") from None
