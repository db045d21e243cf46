"""The torch backend: loads weights, chooses packed or padded by trying both, runs batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from reranker_serve.backends import device as policy
from reranker_serve.backends import packed
from reranker_serve.backends.architectures import ARCHITECTURES
from reranker_serve.backends.int8 import channel_peaks, int8_product
from reranker_serve.backends.linear import (
    MakeProduct,
    bfloat16_product,
    linear_layers,
    pack_linear_layers,
    row_count,
    works,
)
from reranker_serve.backends.padded import PaddedForward, PaddedLanguageModel
from reranker_serve.backends.weights import load_weights
from reranker_serve.errors import BackendLost, ModelError, OutOfMemory
from reranker_serve.types import (
    EncodedItem,
    FloatArray,
    PooledReadout,
    Readout,
    count_tokens,
)

logger = logging.getLogger(__name__)

_PADDED_BUCKET_TOKENS = 4096
# Packed and padded sums differ in the last bits only; sequences that see each other differ by far more.
_AGREEMENT = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}

# Times four sequences, of 300 tokens together, that tell which channels are large.
_PEAK_PROBES = 4

Forward = Callable[[Sequence[EncodedItem]], Tensor]
Quantization = Literal["none", "int8"]


class TorchBackend:
    """Runs one model on one device, a pass at a time. Build it with `load`."""

    def __init__(self, model: Any, readout: Readout, device: str, quantization: Quantization = "none") -> None:
        self.device = device
        self.dtype = "int8" if quantization == "int8" else str(next(model.parameters()).dtype).removeprefix("torch.")
        self.batch_token_cap = policy.CPU_BATCH_TOKENS if device == "cpu" else None
        self.relieve = _relieve_mps if device == "mps" else _keep_all
        self._readout = readout
        self._forward, self.attention = _choose_forward(model, readout, device)
        make = _linear_product(model, device, quantization)
        if make is not None:
            # Peaks are those of texts: before anything else fills a row.
            pack_linear_layers(model.base_model, make, self._channel_peaks(model) if make is int8_product else None)
            if isinstance(self._forward, packed.PackedForward):
                self._forward.row_count = row_count

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        with self._errors(), torch.inference_mode():
            rows: FloatArray = self._forward(items).cpu().numpy()
        self.relieve()
        return rows

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Torch's errors as ours."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            _release_memory(self.device)
            raise OutOfMemory(str(error).splitlines()[0]) from error
        except RuntimeError as error:
            if "device-side assert" in str(error) or isinstance(error, _DEVICE_ERRORS):
                raise BackendLost(str(error).splitlines()[0]) from error
            raise

    def _channel_peaks(self, model: Any) -> dict[str, Tensor]:
        probe = [item for seed in range(_PEAK_PROBES) for item in _probe_items(model.config, causal=False, seed=seed)]
        return channel_peaks(linear_layers(model.base_model), lambda: self.forward(probe))


class CudaBackend(TorchBackend):
    """Runs one model on a GPU, which computes one pass while the next is begun."""

    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], FloatArray]:
        with self._errors(), torch.inference_mode():
            rows = self._forward(items)
            host = rows.to("cpu", non_blocking=True)
            done = torch.cuda.current_stream(rows.device).record_event() if rows.is_cuda else None

        def result() -> FloatArray:
            with self._errors():
                if done is not None:
                    done.synchronize()
            found: FloatArray = host.numpy()
            return found

        return result


_DEVICE_ERRORS: tuple[type[BaseException], ...] = tuple(
    kind for kind in (getattr(torch, "AcceleratorError", None),) if kind is not None
)


def load(
    folder: Path,
    readout: Readout,
    *,
    device: str | None,
    half_precision: bool,
    threads: int,
    quantization: Quantization = "none",
) -> TorchBackend:
    """Load the checkpoint in `folder` (safetensors only). Raises `ModelError` with one line."""
    torch.set_num_threads(threads)
    machine = inspect_machine()
    chosen = policy.choose_device(device, machine)
    dtype = getattr(torch, policy.choose_dtype(chosen, half_precision, machine))
    check_quantization(quantization, chosen, dtype, readout, machine)
    if chosen == "mps":
        torch.mps.set_per_process_memory_fraction(policy.MPS_MEMORY_FRACTION)
    model = load_weights(folder, readout, dtype, chosen)
    try:
        kind = CudaBackend if chosen.startswith("cuda") else TorchBackend
        backend = kind(model.to(chosen).eval(), readout, chosen, quantization)
        if chosen.startswith("cuda"):
            backend.batch_token_cap = _fitting_tokens(backend, model.config)
    except (torch.OutOfMemoryError, OutOfMemory) as error:
        raise ModelError(f"{folder} does not fit the memory of {chosen}: {str(error).splitlines()[0]}") from None
    if chosen == "cpu":
        backend.relieve = policy.KeptMemory().relieve
    return backend


def _fitting_tokens(backend: TorchBackend, config: Any) -> int:
    """Tokens of a forward pass that fit the GPU's free memory, by one pass that warms it up as well."""
    probe = _probe_items(config, causal=False)
    probe *= max(1, policy.GPU_PROBE_TOKENS // count_tokens(probe))
    _release_memory(backend.device)
    before = torch.cuda.memory_allocated(backend.device)
    torch.cuda.reset_peak_memory_stats(backend.device)
    backend.forward(probe)
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
    if isinstance(readout, PooledReadout):  # measured: docs/quality.md
        raise ModelError("RERANKER_QUANTIZATION=int8 costs embedding models too much of their ranking: leave it unset")
    if not machine.cpu_int8:
        raise ModelError(
            "RERANKER_QUANTIZATION=int8 needs a processor that multiplies 8-bit integers (VNNI or AMX): leave it unset"
        )
    if not works(int8_product, dtype):
        raise ModelError("RERANKER_QUANTIZATION=int8 needs 8-bit kernels that are missing here: leave it unset")


def inspect_machine() -> policy.Machine:
    """The facts that the device policy decides on."""
    return policy.Machine(
        cuda_devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        mps=torch.backends.mps.is_available(),
        cpu_bfloat16=_has(("avx512_bf16", "amx_bf16"), ("_is_avx512_bf16_supported", "_is_amx_tile_supported")),
        # Without these oneDNN's sums overflow, or it computes in plain loops, a thousand times slower.
        cpu_int8=_has(("avx512_vnni", "avx_vnni", "amx_int8"), ("_is_vnni_supported", "_is_avx512_vnni_supported")),
    )


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


def _choose_forward(model: Any, readout: Readout, device: str) -> tuple[Forward, str]:
    """Packed where the model can be packed and computes the same numbers so; else padded."""
    architecture = ARCHITECTURES.get(model.config.model_type)
    padded: Forward
    if architecture is not None and architecture.causal:
        padded = PaddedLanguageModel(model, architecture, readout, _PADDED_BUCKET_TOKENS)
    else:
        padded = PaddedForward(model, readout, _PADDED_BUCKET_TOKENS)
    if architecture is None or device == "mps" or not packed.can_pack(model):
        return padded, f"padded {model.config._attn_implementation}"
    probe = _probe_items(model.config, architecture.causal)
    with torch.inference_mode():
        expected = padded(probe)
    fallback = model.config._attn_implementation
    packed.register()
    model.set_attn_implementation(packed.ATTENTION)
    attempt = packed.PackedForward(model, architecture, readout)
    try:
        with torch.inference_mode():
            got = attempt(probe)
        difference = _difference(got, expected, readout)
        reason = f"packed and padded differ by {difference:.3g}"
        agree = difference <= _AGREEMENT[next(model.parameters()).dtype]
    except Exception as error:  # any failure here means: this model or device is not packable
        agree, reason = False, f"{type(error).__name__}: {error}"
    if agree:
        return attempt, "packed " + ("varlen" if device.startswith("cuda") else "per segment")
    logger.warning("attention runs padded, which is slower: %s", reason)
    model.set_attn_implementation(fallback)
    return padded, f"padded {fallback}"


def _difference(got: Tensor, expected: Tensor, readout: Readout) -> float:
    if isinstance(readout, PooledReadout):
        got, expected = (torch.nn.functional.normalize(rows, dim=1) for rows in (got, expected))
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def _probe_items(config: Any, causal: bool, seed: int = 0) -> list[EncodedItem]:
    """A few sequences of different lengths with ids the model knows; for causal models two share a prefix."""
    random = np.random.default_rng(seed)
    longest = min(160, config.max_position_embeddings - 8)
    lengths = [longest, 3, max(4, longest // 2), max(4, longest // 5)]
    low, high = min(10, config.vocab_size - 2), config.vocab_size - 1
    ids = [random.integers(low, high, size=length, dtype=np.int32) for length in lengths]
    prefixes = [None, None, ids[1], ids[1]] if causal else [None] * len(ids)
    return [EncodedItem(own, len(own) // 2, prefix) for own, prefix in zip(ids, prefixes, strict=True)]


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
