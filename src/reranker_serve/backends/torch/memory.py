"""What torch keeps of a device's memory, and when it goes back to the system."""

from __future__ import annotations

import torch

from reranker_serve.backends import device as policy


def release_memory(device: str) -> None:
    """Give back all that is cached and not in use."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def limit_memory(device: str) -> None:
    """Leave some of a memory that is shared with everything else on the machine."""
    if device == "mps":
        torch.mps.set_per_process_memory_fraction(policy.MPS_MEMORY_FRACTION)


def relieve_mps() -> None:
    """Give back what is cached when little is left. Call it between batches."""
    if policy.under_mps_pressure(torch.mps.driver_allocated_memory(), torch.mps.recommended_max_memory()):
        torch.mps.empty_cache()


def keep_all() -> None:
    """Memory needs no care."""
