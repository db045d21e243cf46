"""The torch backend: loads weights in a precision that holds the model's numbers, and runs batches."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from reranker_serve.backends import device as policy
from reranker_serve.backends import packed
from reranker_serve.backends.failures import backend_error
from reranker_serve.backends.int8 import channel_peaks, int8_product
from reranker_serve.backends.layers import load_layers
from reranker_serve.backends.linear import (
    MakeProduct,
    bfloat16_product,
    linear_layers,
    pack_linear_layers,
    row_count,
    works,
)
from reranker_serve.backends.probe import NotFinite, choose_forward, probe_items, random_items, require_finite
from reranker_serve.backends.weights import load_weights, stored_precision
from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import BackendError, ModelError, OutOfMemory, reason
from reranker_serve.readouts import HeadReadout, PooledReadout, Readout, VectorsReadout
from reranker_serve.types import EncodedItem, FloatArray, Outputs, count_tokens

logger = logging.getLogger(__name__)

# Times four sequences, of 300 tokens together, that tell which channels are large.
_PEAK_PROBES = 4

Quantization = Literal["none", "int8"]
Result = TypeVar("Result")


class TorchBackend:
    """Runs one model on one device, a pass at a time. Build it with `load`; raises `NotFinite`.

    `precision_note` says why it does not compute in the precision that would be chosen first.
    """

    precision_note: str | None = None

    def __init__(
        self,
        model: Any,
        readout: Readout,
        device: str,
        quantization: Quantization = "none",
        layers: nn.Module | None = None,
    ) -> None:
        self.device = device
        self.dtype = "int8" if quantization == "int8" else str(next(model.parameters()).dtype).removeprefix("torch.")
        self.batch_token_cap = policy.CPU_BATCH_TOKENS if device == "cpu" else None
        self.relieve = _relieve_mps if device == "mps" else _keep_all
        self._readout = readout
        self._forward, self.attention = choose_forward(model, readout, device, layers or nn.Identity())
        make = _linear_product(model, device, quantization)
        if make is not None:
            # Peaks are those of texts: before anything else fills a row.
            pack_linear_layers(model.base_model, make, self._channel_peaks(model) if make is int8_product else None)
            if isinstance(self._forward, packed.PackedForward):
                self._forward.row_count = row_count
            self.try_out(probe_items(model.config, readout))

    def forward(self, items: Sequence[EncodedItem]) -> Outputs:
        return _outputs(items, self._rows(items))

    def try_out(self, items: Sequence[EncodedItem]) -> None:
        """Raises `NotFinite`."""
        require_finite(self._rows(items))

    def _rows(self, items: Sequence[EncodedItem]) -> FloatArray:
        """A row an item, or for vectors one each."""
        rows: FloatArray = self._compute(lambda: self._forward(items).cpu().numpy())
        self.relieve()
        return rows

    def _compute(self, run: Callable[[], Result]) -> Result:
        """What `run` returns; torch's errors as ours."""
        try:
            with torch.inference_mode():
                return run()
        except (RuntimeError, MemoryError) as error:
            failure = backend_error(error)
            if failure is None:
                raise
        # Not raised above, where torch's error would become its context and keep the tensors of the failed pass alive.
        if isinstance(failure, OutOfMemory):
            _release_memory(self.device)
        raise failure

    def _channel_peaks(self, model: Any) -> dict[str, Tensor]:
        probe = [item for seed in range(_PEAK_PROBES) for item in random_items(model.config, self._readout, seed)]
        return channel_peaks(linear_layers(model.base_model), lambda: self.forward(probe))


class CudaBackend(TorchBackend):
    """Runs one model on a GPU, which computes one pass while the next is begun."""

    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], Outputs]:
        def start() -> tuple[Tensor, Any]:
            rows = self._forward(items)
            host = rows.to("cpu", non_blocking=True)  # which torch puts into pinned memory
            return host, torch.cuda.current_stream(rows.device).record_event() if rows.is_cuda else None

        host, done = self._compute(start)

        def result() -> Outputs:
            if done is not None:
                self._compute(done.synchronize)
            return _outputs(items, host.numpy())

        return result


def _outputs(items: Sequence[EncodedItem], rows: FloatArray) -> Outputs:
    """Rows as they are, or an item's vectors, which are among them."""
    if items[0].read is None:
        return rows
    stops = np.cumsum([0 if item.read is None else len(item.read) for item in items])
    return np.split(rows, stops[:-1])


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
    if chosen == "mps":
        torch.mps.set_per_process_memory_fraction(policy.MPS_MEMORY_FRACTION)
    backend = load_finite(checkpoint, readout, chosen, precisions, quantization)
    if chosen == "cpu":
        backend.relieve = policy.KeptMemory().relieve
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
            _release_memory(device)
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
        backend = kind(model.to(device).eval(), readout, device, quantization, layers)
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
    _release_memory(backend.device)
    before = torch.cuda.memory_allocated(backend.device)
    torch.cuda.reset_peak_memory_stats(backend.device)
    backend.try_out(probe)
    peak = torch.cuda.max_memory_allocated(backend.device) - before
    _release_memory(backend.device)
    free, _ = torch.cuda.mem_get_info(backend.device)
    return policy.fitting_tokens(free, peak, count_tokens(probe))


def check_quantization(
    quantization: Quantization, device: str, dtype: torch.dtype, readout: Readout, machine: policy.Machine
) -> None:
    """Raise `ModelError` where a quantization cannot be used, or costs more of the ranking than it is worth."""
    if quantization == "none":
        return
    if device != "cpu":
        raise ModelError(f"RERANKER_QUANTIZATION=int8 is for a CPU, not for {device}: leave it unset")
    if isinstance(readout, PooledReadout | VectorsReadout):  # measured: docs/quality.md
        raise ModelError("RERANKER_QUANTIZATION=int8 costs embedding models too much of their ranking: leave it unset")
    if not machine.cpu_int8:
        raise ModelError(
            "RERANKER_QUANTIZATION=int8 needs a processor that multiplies 8-bit integers (VNNI or AMX): leave it unset"
        )
    if not works(int8_product, dtype):
        raise ModelError("RERANKER_QUANTIZATION=int8 needs 8-bit kernels that are missing here: leave it unset")


def inspect_machine() -> policy.Machine:
    """The facts that the device policy decides on."""
    cuda_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return policy.Machine(
        cuda_devices=cuda_devices,
        cuda_bfloat16=frozenset(filter(_multiplies_bfloat16, range(cuda_devices))),
        mps=torch.backends.mps.is_available(),
        cpu_bfloat16=_has(("avx512_bf16", "amx_bf16"), ("_is_avx512_bf16_supported", "_is_amx_tile_supported")),
        # Without these oneDNN's sums overflow, or it computes in plain loops, a thousand times slower.
        cpu_int8=_has(("avx512_vnni", "avx_vnni", "amx_int8"), ("_is_vnni_supported", "_is_avx512_vnni_supported")),
    )


def _multiplies_bfloat16(cuda_device: int) -> bool:
    """As `torch.cuda.is_bf16_supported`, which tells it of the current device only."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(cuda_device) >= (8, 0)


def _has(capabilities: Sequence[str], older: Sequence[str]) -> bool:
    """Whether the processor has one of these; by `older` private functions of `torch.cpu` where it tells no list."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name) for name in capabilities)
    return any(getattr(torch.cpu, name, lambda: False)() for name in older)


def _linear_product(model: Any, device: str, quantization: Quantization) -> MakeProduct | None:
    """What computes the linear layers in the place of their own; None where that does."""
    if quantization == "int8":
        return int8_product
    bfloat16 = device == "cpu" and model.dtype is torch.bfloat16
    return bfloat16_product if bfloat16 and works(bfloat16_product, model.dtype) else None


def _release_memory(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def _keep_all() -> None:
    """Memory needs no care."""


def _relieve_mps() -> None:
    if policy.under_mps_pressure(torch.mps.driver_allocated_memory(), torch.mps.recommended_max_memory()):
        torch.mps.empty_cache()
