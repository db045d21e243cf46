"""A model of the hub without its weights: its other files, and of the weights what is where, with holes for numbers.

So whatever looks at a model's folder, but for its numbers, can look at a model that is not on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from reranker_serve.errors import ModelError
from reranker_serve.model_files import hub
from reranker_serve.model_files.find import Places, laid_out, locate
from reranker_serve.model_files.folders import ModelFiles
from reranker_serve.model_names import folder_name
from reranker_serve.settings import Settings


@contextmanager
def outlined(settings: Settings) -> Iterator[ModelFiles]:
    """The configured model as one folder, as long as the block lasts: what is on this machine, else an outline of it.

    Raises `StartupError` with one line that says what to do.
    """
    with TemporaryDirectory(prefix="reranker-outline-") as directory:
        places = Outlines(Places(settings.model_cache_dir, offline=True), Path(directory))
        if settings.model_folder is not None or settings.use_offline_mode:
            files = locate(settings)
        else:
            files = places.find(hub.Wanted(settings.model_name, settings.model_revision))
        with laid_out(files.folder, places) as folder:
            yield ModelFiles(folder, files.revision)


@dataclass(frozen=True, slots=True)
class Outlines:
    """Models on this machine as they are, and others as outlines in `directory`."""

    places: Places
    directory: Path

    def find(self, wanted: hub.Wanted) -> ModelFiles:
        try:
            return self.places.find(wanted)
        except ModelError:
            folder = self.directory / folder_name(wanted.model)
            return ModelFiles(folder, _fetch(wanted, folder))


def _fetch(wanted: hub.Wanted, folder: Path) -> str:
    """An outline of the model in `folder`; returns its revision."""
    found = hub.fetch_without_weights(wanted, folder)
    for name, header in found.headers.items():
        _write_hollow(folder / name, header)
    return found.revision


def _write_hollow(path: Path, header: hub.Header) -> None:
    """A file of safetensors with its header, and as long as it is with its numbers: on most file systems these take
    no room."""
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    size = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        file.truncate(8 + len(described) + size)
