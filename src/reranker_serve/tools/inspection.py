"""What a model folder holds and how it would be served, told in seconds: no weights are loaded."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError, safe_open

from reranker_serve.backends.adapter_config import ADAPTER_FOLDER
from reranker_serve.checkpoint import Checkpoint, weight_files
from reranker_serve.errors import ModelError
from reranker_serve.families.modules import read_modules
from reranker_serve.families.registry import build_family, kind_of, read_checkpoint
from reranker_serve.families.transformer_module import TRANSFORMER_FILES
from reranker_serve.model_files.outline import outlined
from reranker_serve.model_names import folder_name
from reranker_serve.settings import Settings
from reranker_serve.tools.catalogue import KNOWN_MODELS, KnownModel

# Of a parameter.
_BYTES = {"float32": 4, "half precision": 2}
# Beside the weights; `*` stands for anything.
_READ = (
    "artifact.metadata",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors.index.json",
    "modules.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    *TRANSFORMER_FILES,
)
# Without tokenizer.json transformers makes a tokenizer of these.
_VOCABULARIES = ("vocab.*", "merges.txt", "*.model", "*.codes", "added_tokens.json")
# Of the hub's client, beside what it fetched.
_NOTES = ".cache/"
_IN_MODULES = ("config.json", "model.safetensors")
# What `max_length` counts, by family; else both texts of a pair and all around them.
_COUNTS = {
    "late_interaction": "of a text",
    "bi_encoder": "of a text",
    "listwise": "of a document in the list",
}


@dataclass(frozen=True, slots=True)
class Inspection:
    """`memory` has gigabytes of the weights in each precision; `longest` and `shortest` are the bounds of `max_length`,
    in tokens; `read` are the files that decide how the model is served, and `left` those that do not."""

    folder: str
    architecture: str
    kind: str
    family: str
    prompt: str | None
    takes_instruction: bool
    scale: str
    shortest: int
    longest: int
    parameters: int
    stored_in: str
    memory: dict[str, float]
    read: tuple[str, ...]
    left: tuple[str, ...]
    known_as: str | None
    languages: str | None
    licence: str | None


def inspect(folder: Path, settings: Settings) -> Inspection:
    """Raises `StartupError` with the line that a start would end with."""
    checkpoint = read_checkpoint(folder)
    family = build_family(checkpoint, settings)
    shortest, longest = family.max_length_bounds
    numbers = _numbers(checkpoint)
    parameters = sum(numbers.values())
    known = _known(checkpoint, settings)
    read, left = _files(checkpoint)
    return Inspection(
        folder=str(folder),
        architecture=checkpoint.architecture,
        kind=kind_of(checkpoint).name,
        family=family.name,
        prompt=family.prompt,
        takes_instruction=family.takes_instruction,
        scale=family.score_scale,
        shortest=shortest,
        longest=longest,
        parameters=parameters,
        stored_in=max(numbers, key=numbers.__getitem__, default="nothing"),
        memory={precision: round(parameters * size / 1e9, 2) for precision, size in _BYTES.items()},
        read=read,
        left=left,
        known_as=known[0] if known else None,
        languages=known[1].languages if known else None,
        licence=known[1].licence if known else None,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a folder, or a hub id; the configured model when not given")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.model:
        # The revision is that of the model which is configured.
        revision = settings.model_revision if arguments.model == settings.model_name else None
        given = {"model_path": None, "model_name": arguments.model, "model_revision": revision}
        settings = settings.model_copy(update=given)
    with outlined(settings) as files:
        found = inspect(files.folder, settings)
    where = settings.model_folder or f"{settings.model_name} at {files.revision}"
    found = dataclasses.replace(found, folder=str(where))
    print(json.dumps(dataclasses.asdict(found), indent=2) if arguments.json else table(found))
    return 0


def table(found: Inspection) -> str:
    """The same for people, a line a fact."""
    low, high = found.shortest, found.longest
    memory = ", ".join(f"{size:g} GB in {precision}" for precision, size in found.memory.items())
    instruction = "taken" if found.takes_instruction else "an error, as the model takes none"
    rows = {
        "model": found.folder,
        "comes from": " ".join(filter(None, (found.known_as, found.licence and f"({found.licence})"))) or "not known",
        "languages": found.languages or "not known",
        "architecture": f"{found.architecture}: {_with_article(found.kind)}, family {found.family}",
        "prompt": found.prompt or "none",
        "instruction": instruction,
        "scores": found.scale,
        "max_length": f"{high} tokens {_COUNTS.get(found.family, 'of a pair')}; a request may ask for {low} and more",
        "parameters": f"{found.parameters:,}, stored in {found.stored_in}",
        "weights take": memory,
        "decided by": ", ".join(found.read),
        "not read": ", ".join(found.left) or "nothing",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _known(checkpoint: Checkpoint, settings: Settings) -> tuple[str, KnownModel] | None:
    """By the name that it is served under, that its configuration has, or that its folder was given."""
    config = checkpoint.config
    names = {settings.served_name, str(config.get("_name_or_path")), checkpoint.folder.name}
    for model in KNOWN_MODELS:
        for name in model.ids:
            if names & {name, folder_name(name)}:
                return name, model
    return None


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _numbers(checkpoint: Checkpoint) -> Counter[str]:
    """How many numbers are stored in each precision, by the headers of the weights; an adapter adds none."""
    numbers = Counter[str]()
    modules = (str(Path(module.path, "model.safetensors")) for module in read_modules(checkpoint))
    paths = (checkpoint.folder / name for name in sorted({*weight_files(checkpoint.folder), *modules}))
    for path in filter(Path.is_file, paths):
        try:
            with safe_open(path, "numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    tensor = tensors.get_slice(name)
                    numbers[tensor.get_dtype()] += math.prod(tensor.get_shape())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read ({error}): download the model again") from None
    return numbers


def _files(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names below the folder: those that decide how it is served, and the others. An adapter's are as in its own."""
    folder = checkpoint.folder
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name for name in names if not name.startswith(_NOTES)]
    patterns = [*_READ, *weight_files(folder), f"{ADAPTER_FOLDER}/*"]
    patterns += () if (folder / "tokenizer.json").is_file() else _VOCABULARIES
    patterns += [str(Path(module.path, name)) for module in read_modules(checkpoint) for name in _IN_MODULES]
    read = [name for name in names if any(_matches(name, pattern) for pattern in patterns)]
    left = [name for name in names if name not in read]
    return tuple(sorted(name.removeprefix(f"{ADAPTER_FOLDER}/") for name in read)), tuple(left)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
