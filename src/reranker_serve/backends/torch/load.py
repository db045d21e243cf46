"""From a checkpoint to a backend: on the device that is there, in a precision that holds the model's numbers."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from reranker_serve.backends import device as policy
from reranker_serve.backends.cpu.kept_memory import KeptMemory
from reranker_serve.backends.cpu.mapped_weights import MappedFiles, give_back
from reranker_serve.backends.cpu.nodes import Cores, pin
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

Result = TypeVar("Result")


def load(
    checkpoint: Checkpoint,
    readout: Readout,
    *,
    device: str | None,
    half_precision: bool,
    threads: int,
    quantization: Quantization = "none",
    cpu_lanes: Sequence[Cores | None] = (None,),
) -> tuple[TorchBackend, ...]:
    """Load a checkpoint (safetensors only), once for each device, and on a CPU for each of its lanes, which has these
    cores and its share of the threads. Raises `ModelError` with one line."""
    machine = inspect_machine()
    devices = policy.choose_devices(device, machine)
    if device in (None, "cuda") and len(devices) < machine.cuda_devices:
        logger.warning("computing on %s alone: other GPUs here are of another kind", ",".join(devices))
    on_cpu = devices == ("cpu",)
    if on_cpu and len(cpu_lanes) > max(1, threads):
        raise ModelError(
            f"RERANKER_CPU_LANES={len(cpu_lanes)}, but there are {threads} thread(s) to compute with: set that at most"
        )
    places = [policy.Place("cpu", cores) for cores in cpu_lanes] if on_cpu else [policy.Place(one) for one in devices]
    torch.set_num_threads(max(1, threads // len(places)) if on_cpu else threads)
    precisions = policy.choose_precisions(devices, half_precision, stored_precision(checkpoint), machine)
    check_quantization(quantization, devices[0], getattr(torch, precisions[0]), readout, machine)
    limit_memory(devices[0])
    backends = load_finite(checkpoint, readout, places, precisions, quantization)
    if on_cpu:
        kept = KeptMemory()
        for backend in backends:
            backend.relieve = kept.relieve
    return backends


def load_finite(
    checkpoint: Checkpoint,
    readout: Readout,
    places: Sequence[policy.Place],
    precisions: Sequence[policy.DType],
    quantization: Quantization = "none",
) -> tuple[TorchBackend, ...]:
    """Load a checkpoint at each place, in the first of `precisions` in which its numbers are finite at all of them, or
    raise `ModelError`."""
    note = None
    for failed, precision in enumerate(precisions):
        if failed:
            note = f"in {' and '.join(precisions[:failed])} the model gave numbers that are not finite"
            logger.warning("computing in %s: %s", precision, note)
            gc.collect()  # the model, whose parts know each other: it must not be in memory twice
            for place in places:
                release_memory(place.device)
        load_on = partial(_load_in, checkpoint, readout, precision=precision, quantization=quantization)
        backends = _load_at(places, load_on)
        if backends:
            for backend in backends:
                backend.precision_note = note
            return backends
    advice = "" if quantization == "none" else ", or leave RERANKER_QUANTIZATION unset"
    raise ModelError(
        f"the numbers that the model in {checkpoint.folder} computes are not finite, in {precisions[-1]} either, so"
        f" its weights are damaged or not of this architecture: download the model again{advice}"
    )


def _load_at(places: Sequence[policy.Place], load_on: Callable[[str], TorchBackend | None]) -> tuple[TorchBackend, ...]:
    """What `load_on` loads at each place; nothing if it loads nothing at one of them."""
    backends: list[TorchBackend] = []
    for place in places:
        backend = _at(place, partial(load_on, place.device))
        if backend is None:
            return ()
        backend.cores = place.cores
        backends.append(backend)
    _require_alike(backends)
    return tuple(backends)


def _at(place: policy.Place, work: Callable[[], Result]) -> Result:
    """What `work` returns, called where its device is, or its cores: memory is near those that touch it first."""
    if place.cores:
        with ThreadPoolExecutor(1, initializer=pin, initargs=(place.cores,)) as thread:
            return thread.submit(work).result()
    if place.device.startswith("cuda"):
        with torch.cuda.device(place.device):
            return work()
    return work()


def _require_alike(backends: Sequence[TorchBackend]) -> None:
    first = backends[0]
    for other in backends:
        if other.attention != first.attention:
            raise ModelError(
                f"{first.device} computes attention {first.attention}, {other.device} {other.attention}, and scores"
                f" would depend on the device: set RERANKER_DEVICE={first.device}, or to devices that are alike"
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
