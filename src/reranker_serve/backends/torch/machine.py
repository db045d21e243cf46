"""What torch sees of this machine: the facts that the policy of `device.py` decides on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reranker_serve.backends.device import Machine


def inspect_machine() -> Machine:
    cuda_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(
        cuda_devices=cuda_devices,
        cuda_bfloat16=frozenset(filter(_multiplies_bfloat16, range(cuda_devices))),
        cuda_capabilities=tuple(torch.cuda.get_device_capability(index) for index in range(cuda_devices)),
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
