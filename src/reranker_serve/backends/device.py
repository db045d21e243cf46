"""Device, precision and memory policy as plain functions of facts: no torch in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reranker_serve.errors import ModelError

DType = Literal["float32", "bfloat16", "float16"]

# Beyond this nothing becomes faster, and a batch only makes others wait. Where the layers have few numbers (of the base
# shape they have 85 million) twice as much is up to a fifth faster, and waited for less long than for a larger model's.
_CPU_BATCH_TOKENS = 2048
_FEW_NUMBERS = 40_000_000

# What warms up a GPU and tells what a token needs there; and the share of the free memory to be used.
GPU_PROBE_TOKENS = 4096
_GPU_MEMORY_SHARE = 0.8

# Apple's memory is shared with everything else on the machine.
MPS_MEMORY_FRACTION = 0.7
MPS_PRESSURE = 0.8


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has; filled in by `backends/torch/machine.py`."""

    cuda_devices: int
    mps: bool
    cpu_bfloat16: bool
    cpu_int8: bool
    cuda_bfloat16: frozenset[int] = frozenset()  # devices that multiply it natively
    cuda_capabilities: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lane computes: a device, and of a CPU these cores; None: whichever are free."""

    device: str
    cores: frozenset[int] | None = None


def choose_devices(requested: str | None, machine: Machine) -> tuple[str, ...]:
    """The devices to use: what was asked for if it is there, else CUDA, MPS, CPU in this order.

    Of GPUs that were not named, all that are of the first one's kind.
    """
    if requested is None:
        requested = "cuda" if machine.cuda_devices else "mps" if machine.mps else "cpu"
    if requested == "mps" and not machine.mps:
        raise ModelError("RERANKER_DEVICE=mps, but torch sees no Apple GPU here: set cpu, or leave it unset")
    if requested == "cuda" and machine.cuda_devices:
        return _alike(machine)
    if requested in ("cpu", "mps"):
        return (requested,)
    named = [int(device.removeprefix("cuda").removeprefix(":") or 0) for device in requested.split(",")]
    if max(named) >= machine.cuda_devices:
        raise ModelError(
            f"RERANKER_DEVICE={requested}, but torch sees {machine.cuda_devices} CUDA device(s) here:"
            " set cpu, or leave it unset to detect one"
        )
    return tuple(f"cuda:{index}" for index in named)


def _alike(machine: Machine) -> tuple[str, ...]:
    """CUDA puts the fastest device first."""
    kinds = machine.cuda_capabilities or ((0, 0),) * machine.cuda_devices
    return tuple(f"cuda:{index}" for index, kind in enumerate(kinds) if kind == kinds[0])


def choose_precisions(
    devices: Sequence[str], half_precision: bool, stored: DType | None, machine: Machine
) -> tuple[DType, ...]:
    """Precisions to compute a checkpoint `stored` in one of them in, best first; each is wider than the one before.

    All devices compute in the same. Half precision only where it is faster: emulated bfloat16 on a CPU is 6 times
    slower than float32. float16 ends at 65,504, which models of bfloat16 exceed (Gemma, Qwen2), and bfloat16 would
    round weights of float16. On MPS always float32, for stability.
    """
    if half_precision and devices[0].startswith("cuda"):
        natively = machine.cuda_bfloat16.issuperset(int(device.removeprefix("cuda:")) for device in devices)
        if not natively or stored == "float16":
            return "float16", "float32"
        return ("bfloat16", "float32") if stored == "bfloat16" else ("float16", "bfloat16", "float32")
    if half_precision and devices[0] == "cpu" and machine.cpu_bfloat16:
        return "bfloat16", "float32"
    return ("float32",)


def environment_before_torch() -> dict[str, str]:
    """Variables torch and its libraries read when they are loaded.

    Operations that MPS lacks run on the CPU. oneDNN keeps a kernel for every shape it has seen, of
    up to a megabyte each: as many as a batch of short sequences needs, not its own 1,024.
    """
    return {"PYTORCH_ENABLE_MPS_FALLBACK": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"}


def under_mps_pressure(driver_allocated: int, recommended: int) -> bool:
    """Whether cached blocks should go back to the system; both in bytes."""
    return recommended > 0 and driver_allocated > MPS_PRESSURE * MPS_MEMORY_FRACTION * recommended


def fitting_tokens(free: int, peak: int, tokens: int) -> int:
    """Tokens of a forward pass that fit `free` bytes, when one of `tokens` needed `peak` bytes of its own."""
    return max(tokens, int(_GPU_MEMORY_SHARE * free * tokens / max(1, peak)))


def apply_environment(environ: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Those of `defaults` that are not set yet."""
    return {name: value for name, value in defaults.items() if name not in environ}


def cpu_batch_tokens(numbers: int) -> int:
    """Most tokens worth putting in one pass on a CPU, of a model with so many numbers beside its table of words."""
    return _CPU_BATCH_TOKENS * (2 if numbers <= _FEW_NUMBERS else 1)
