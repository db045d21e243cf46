"""Settings -> Scorer: find the files, choose family and backend. The only place where the two meet."""

from __future__ import annotations

import errno
import gc
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reranker_serve.backends import cores
from reranker_serve.backends import device as policy
from reranker_serve.errors import ModelError, OutOfMemory
from reranker_serve.families.registry import build_family, read_checkpoint
from reranker_serve.settings import Settings
from reranker_serve.types import Backend, EncodedItem, Family, ModelInfo, Scorer, count_tokens

logger = logging.getLogger(__name__)

# Weights in safetensors, tokenizers and configurations; no pickles, no ONNX or OpenVINO copies.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
_UNWANTED = ["onnx/*", "openvino/*"]
# Of the disk or the folder, while other errors of a download are the connection's.
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}

_WARM_UP_TEXT = "How fast is it? "
_LONG_ENOUGH_S = 0.1


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies on disk, and which revision of it."""

    folder: Path
    revision: str


def load(settings: Settings) -> Scorer:
    """Load the configured model. Raises `StartupError` with one line that says what to do."""
    files = locate(settings)
    checkpoint = read_checkpoint(files.folder)
    threads = _threads(settings)
    wanted = {**policy.environment_before_torch(), "RAYON_NUM_THREADS": str(threads)}  # of tokenizers
    os.environ.update(policy.apply_environment(os.environ, wanted))
    family = build_family(checkpoint, settings)
    with _no_collections():
        from reranker_serve.backends import torch as torch_backend  # seconds of import, only needed here

    backend = torch_backend.load(
        checkpoint,
        family.readout,
        device=settings.device,
        half_precision=settings.use_fp16,
        threads=threads,
        quantization=settings.quantization,
    )
    info = ModelInfo(settings.served_name, files.revision, checkpoint.architecture, backend.precision_note)
    return Scorer(info, family, backend, warm_up(family, backend, settings))


def warm_up(family: Family, backend: Backend, settings: Settings) -> tuple[int, float]:
    """Tokens and seconds of the first forward pass that took long enough to tell how fast the model computes."""
    longest = family.max_length_bounds[1]
    text = _WARM_UP_TEXT * 32  # as long as a search result
    budget = settings.token_budget(backend.batch_token_cap)
    documents, measured = 1, None
    while True:
        encoded = family.encode("warm up", [text] * documents, max_length=longest, instruction=None)
        tokens = count_tokens(encoded.items)
        try:
            # The better of two: one may have to wait for other programs.
            measured = tokens, min(_seconds(backend, encoded.items) for _ in range(2))
        except OutOfMemory:
            if measured is None:
                raise
            return measured
        if measured[1] >= _LONG_ENOUGH_S or 2 * tokens > budget:
            return measured
        documents *= 2


def _threads(settings: Settings) -> int:
    openmp = os.environ.get("OMP_NUM_THREADS")
    threads = cores.threads(settings.cpu_threads, openmp, cores.available_cores(), settings.workers)
    if openmp:
        heard = "ignored" if settings.cpu_threads or not cores.openmp_threads(openmp) else "honoured"
        logger.info("computing with %d thread(s): OMP_NUM_THREADS=%s is %s", threads, openmp, heard)
    return threads


def _seconds(backend: Backend, items: Sequence[EncodedItem]) -> float:
    start = time.monotonic()
    backend.forward(items)
    return time.monotonic() - start


@contextmanager
def _no_collections() -> Iterator[None]:
    """Import without the garbage collector, which else looks at ever more modules again and again.

    They are there to stay, so no collection looks at them later, either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def locate(settings: Settings) -> ModelFiles:
    """Find the model's folder, downloading it if that is allowed and needed."""
    if settings.use_offline_mode:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub and transformers when imported
    if settings.model_path is not None:
        return ModelFiles(settings.model_path, "local")
    downloaded = settings.model_cache_dir / folder_name(settings.model_name)
    if downloaded.is_dir():
        return ModelFiles(downloaded, "local")
    return _from_hub(settings)


def download(model: str, directory: Path) -> Path:
    """Download a model from the hub into its own folder below `directory`, for offline use."""
    from huggingface_hub import snapshot_download

    target = directory / folder_name(model)
    with _hub_errors(model, "check the connection and try again", target, "name another folder"):
        snapshot_download(model, local_dir=target, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    read_checkpoint(target)
    return target


def folder_name(model: str) -> str:
    """`BAAI/bge-reranker-v2-m3` -> `BAAI_bge-reranker-v2-m3`."""
    return model.strip("/").replace("/", "_")


def _from_hub(settings: Settings) -> ModelFiles:
    from huggingface_hub import snapshot_download

    offline = settings.use_offline_mode
    advice = (
        f"download it first, with ./download_model.sh {settings.model_name} {settings.model_cache_dir}"
        if offline
        else "check the connection, or download it elsewhere and set RERANKER_MODEL_PATH"
    )
    folder = settings.model_cache_dir
    with _hub_errors(settings.model_name, advice, folder, "set RERANKER_MODEL_CACHE_DIR"):
        snapshot = snapshot_download(
            settings.model_name,
            cache_dir=folder,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
            local_files_only=offline,
        )
    return ModelFiles(Path(snapshot), Path(snapshot).name)


class _hub_errors:
    """Turn what the hub client raises into one line."""

    def __init__(self, model: str, advice: str, folder: Path, elsewhere: str) -> None:
        self._model = model
        self._advice = advice
        self._folder = folder
        self._elsewhere = elsewhere

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from huggingface_hub import errors as hub

        if error is None or isinstance(error, ModelError):
            return
        model = self._model
        if isinstance(error, hub.GatedRepoError):
            raise ModelError(f"{model} is gated: accept its terms on the hub and set HF_TOKEN") from None
        if isinstance(error, hub.RepositoryNotFoundError | hub.HFValidationError):
            raise ModelError(f"the hub has no model {model}: check RERANKER_MODEL_NAME") from None
        if isinstance(error, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled):
            raise ModelError(f"{model} is not on this machine and cannot be fetched: {self._advice}") from None
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            reason = os.strerror(error.errno)
            raise ModelError(
                f"{model} cannot be written to {self._folder} ({reason}): make it possible there, or {self._elsewhere}"
            ) from None
        if isinstance(error, Exception):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"downloading {model} failed ({reason}): {self._advice}") from None
