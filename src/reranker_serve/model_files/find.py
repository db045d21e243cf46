"""Settings -> the model's folder, found on this machine or fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reranker_serve.backends.adapter_config import read_adapter_config
from reranker_serve.errors import ModelError
from reranker_serve.families.registry import read_checkpoint
from reranker_serve.model_files import hub
from reranker_serve.model_files.assemble import assembled
from reranker_serve.model_files.folders import (
    ADAPTER_CONFIG,
    ModelFiles,
    files_of,
    given_folder,
    has_own_weights,
    is_adapter,
    is_revision,
    is_whole,
    revision_of,
)
from reranker_serve.model_names import as_path, folder_name
from reranker_serve.settings import Settings


class Finder(Protocol):
    """Where models of the hub are looked for."""

    def find(self, wanted: hub.Wanted) -> ModelFiles:
        """Raises `ModelError`."""


@contextmanager
def opened(settings: Settings) -> Iterator[ModelFiles]:
    """The configured model as one folder, as long as the block lasts: an adapter's is laid out with its base.

    Raises `StartupError` with one line that says what to do.
    """
    files = locate(settings)
    places = Places(settings.model_cache_dir, settings.use_offline_mode)
    with laid_out(files.folder, places) as folder:
        yield ModelFiles(folder, files.revision)


def locate(settings: Settings) -> ModelFiles:
    """Find the model's folder, downloading it if that is allowed and needed."""
    if settings.use_offline_mode:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub and transformers when imported
    if settings.model_folder is not None:
        return given_folder(settings.model_folder, settings.model_revision)
    places = Places(settings.model_cache_dir, settings.use_offline_mode)
    return places.find(hub.Wanted(settings.model_name, settings.model_revision))


def download(model: str, directory: Path, revision: str | None = None) -> ModelFiles:
    """Download a model from the hub into a folder of its own below `directory`; with an adapter its base."""
    target = directory / folder_name(model)
    hub.fetch_to_folder(hub.Wanted(model, revision), target)
    with laid_out(target, Downloads(directory)) as folder:
        read_checkpoint(folder)
    return files_of(target)


@dataclass(frozen=True, slots=True)
class Places:
    """Where models of the hub are looked for, and kept when they are fetched."""

    cache: Path
    offline: bool

    def find(self, wanted: hub.Wanted) -> ModelFiles:
        """Downloaded before, in the hub's own cache, or fetched into ours. Raises `ModelError`."""
        downloaded = self.cache / folder_name(wanted.model)
        # Where the hub cannot be asked, what is missing in a part of a model is told by loading it.
        usable = downloaded.is_dir() and (self.offline or is_whole(downloaded))
        if usable and self._is_wanted(downloaded, wanted):
            return files_of(downloaded)
        folder = self._in_the_hubs_cache(wanted)
        if folder is None and self.offline and downloaded.is_dir() and hub.snapshot(wanted, self.cache) is None:
            known = revision_of(downloaded)
            raise ModelError(
                f"{wanted} is not on this machine: {downloaded}"
                + (f" is of revision {known}, set that" if known else " does not tell its revision, set none")
            )
        folder = folder or hub.fetch_to_cache(wanted, self.cache, self.offline)
        return ModelFiles(folder, folder.name)

    def _is_wanted(self, folder: Path, wanted: hub.Wanted) -> bool:
        if _is_of(folder, wanted):
            return True
        found = revision_of(folder)
        return found is not None and not self.offline and hub.commit(wanted) == found

    def _in_the_hubs_cache(self, wanted: hub.Wanted) -> Path | None:
        ours = hub.snapshot(wanted, self.cache)
        if ours is not None and is_whole(ours):
            return None
        found = hub.snapshot(wanted, hub.cache_folder())
        if found is None or not is_whole(found) or (not self.offline and hub.lacks_files(wanted, found)):
            return None
        return found


@dataclass(frozen=True, slots=True)
class Downloads:
    """A folder that models are downloaded into, each as plain files."""

    directory: Path

    def find(self, wanted: hub.Wanted) -> ModelFiles:
        folder = self.directory / folder_name(wanted.model)
        if not is_whole(folder):
            hub.fetch_to_folder(wanted, folder)
        return files_of(folder)


@contextmanager
def laid_out(folder: Path, places: Finder) -> Iterator[Path]:
    """The model's folder as it is, or an adapter's with its base, which is looked for in `places`."""
    if not is_adapter(folder):
        yield folder
        return
    base = folder if has_own_weights(folder) else _base(folder, places)
    with assembled(folder, base) as whole:
        yield whole


def _base(adapter: Path, places: Finder) -> Path:
    """The folder of the model that an adapter changes."""
    config = read_adapter_config(adapter)
    said = f"{adapter} is an adapter, and its base"
    if not config.base:
        raise ModelError(f"{said} is not named: set base_model_name_or_path in its {ADAPTER_CONFIG}")
    wanted, path = hub.Wanted(config.base, config.revision), as_path(config.base)
    beside = adapter.parent / folder_name(config.base)
    if path is not None and path.is_dir():
        base = path
    elif path is not None:
        raise ModelError(
            f"{said} {config.base} is not on this machine: put its files beside the adapter's, or set"
            f" base_model_name_or_path in {ADAPTER_CONFIG} to its folder or hub id"
        )
    elif is_whole(beside) and _is_of(beside, wanted):
        base = beside
    else:
        try:
            base = places.find(wanted).folder
        except ModelError as error:
            raise ModelError(f"{said} is missing: {error}") from None
    if is_adapter(base):
        raise ModelError(f"{said} {base} is an adapter, too: merge that with its own base first")
    return base


def _is_of(folder: Path, wanted: hub.Wanted) -> bool:
    """Whether a folder is of the wanted revision, as far as can be told from it; what was fetched last is `main`."""
    return wanted.revision in (None, "main") or is_revision(folder, wanted.revision)
