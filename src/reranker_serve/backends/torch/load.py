"""From a checkpoint to a backend: on the device that is there, in a precision that holds the model's numbers."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from functools import partial

import torch

from reranker_serve.backends import device as policy
from reranker_serve.backends.cpu.kept_memory import KeptMemory
from reranker_serve.backends.cpu.mapped_weights import MappedFiles, give_back
from reranker_serve.backends.cpu.products import Quantization, check_quantization
from reranker_serve.backends.torch.backend import CudaBackend, TorchBackend
from reranker_serve.backends.torch.failures import backend_error
from reranker_serve.backends.torch.layers import load_layers
from reranker_serve.backends.torch.machine import inspect_machine
from reranker_serve.backends.torch.memory import limit_memory, release_memory
from reranker_serve.backends.torch.probe import NotFinite, random_items
from reranker_serve.backends.torch.weights import load_weights, stored_precision
from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import BackendError, ModelError, OutOfMemory, reason
from reranker_serve.readouts import HeadReadout, Readout, VectorsReadout
from reranker_serve.types import EncodedItem, count_tokens

logger = logging.getLogger(__name__)


def load(
    checkpoint: Checkpoint,
    readout: Readout,
    *,
    device: str | None,
    half_precision: bool,
    threads: int,
    quantization: Quantization = "none",
) -> TorchBackend:
    """Load a checkpoint (safetensors only). Raises `ModelError` with one line."""
    torch.set_num_threads(threads)
    machine = inspect_machine()
    chosen = policy.choose_device(device, machine)
    precisions = policy.choose_precisions(chosen, half_precision, stored_precision(checkpoint), machine)
    check_quantization(quantization, chosen, getattr(torch, precisions[0]), readout, machine)
    limit_memory(chosen)
    backend = load_finite(checkpoint, readout, chosen, precisions, quantization)
    if chosen == "cpu":
        backend.relieve = KeptMemory().relieve
    return backend


def load_finite(
    checkpoint: Checkpoint,
    readout: Readout,
    device: str,
    precisions: Sequence[policy.DType],
    quantization: Quantization = "none",
) -> TorchBackend:
    """Load a checkpoint in the first of `precisions` in which its numbers are finite, or raise `ModelError`."""
    note = None
    for failed, precision in enumerate(precisions):
        if failed:
            note = f"in {' and '.join(precisions[:failed])} the model gave numbers that are not finite"
            logger.warning("computing in %s: %s", precision, note)
            gc.collect()  # the model, whose parts know each other: it must not be in memory twice
            release_memory(device)
        backend = _load_in(checkpoint, readout, device, precision, quantization)
        if backend is not None:
            backend.precision_note = note
            return backend
    advice = "" if quantization == "none" else ", or leave RERANKER_QUANTIZATION unset"
    raise ModelError(
        f"the numbers that the model in {checkpoint.folder} computes are not finite, in {precisions[-1]} either, so"
        f" its weights are damaged or not of this architecture: download the model again{advice}"
    )


def _load_in(
    checkpoint: Checkpoint, readout: Readout, device: str, precision: policy.DType, quantization: Quantization
) -> TorchBackend | None:
    """The checkpoint in `precision`; None where its numbers are not finite then."""
    try:
        model = load_weights(checkpoint, readout, getattr(torch, precision), device)
        kind = CudaBackend if device.startswith("cuda") else TorchBackend
        declared = readout.layers if isinstance(readout, HeadReadout | VectorsReadout) else ()
        layers = load_layers(checkpoint.folder, declared, torch.float32, device)
        files = MappedFiles(checkpoint.folder.glob("*.safetensors") if device == "cpu" else ())
        release = partial(give_back, files=files)
        backend = kind(model.to(device).eval(), readout, device, quantization, layers, release)
        if device.startswith("cuda"):
            backend.batch_token_cap = _fitting_tokens(backend, random_items(model.config, readout))
        return backend
    except NotFinite:
        return None
    except (RuntimeError, MemoryError, BackendError) as error:
        failure = error if isinstance(error, BackendError) else backend_error(error)
        if failure is None:
            raise _no_model(checkpoint, error) from error
        if isinstance(failure, OutOfMemory):
            raise ModelError(f"{checkpoint.folder} does not fit the memory of {device}: {failure}") from None
        raise ModelError(f"{device} cannot compute ({failure}): check it, or set RERANKER_DEVICE=cpu") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of a model's own code
        raise _no_model(checkpoint, error) from error


def _no_model(checkpoint: Checkpoint, error: Exception) -> ModelError:
    return ModelError(
        f"{checkpoint.folder / 'config.json'} is not of a model that can compute ({type(error).__name__}:"
        f" {reason(error)}): use another version of the model"
    )


def _fitting_tokens(backend: TorchBackend, probe: list[EncodedItem]) -> int:
    """Tokens of a forward pass that fit the GPU's free memory, by one pass that warms it up as well."""
    probe *= max(1, policy.GPU_PROBE_TOKENS // count_tokens(probe))
    release_memory(backend.device)
    before = torch.cuda.memory_allocated(backend.device)
    torch.cuda.reset_peak_memory_stats(backend.device)
    backend.try_out(probe)
    peak = torch.cuda.max_memory_allocated(backend.device) - before
    release_memory(backend.device)
    free, _ = torch.cuda.mem_get_info(backend.device)
    return policy.fitting_tokens(free, peak, count_tokens(probe))
