"""What torch's exceptions mean for whoever wants to compute further."""

from __future__ import annotations

import torch

from reranker_serve.errors import BackendError, BackendLost, OutOfMemory

_CUDA_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation; the context stays usable

# As CUDA, its libraries (which say "not initialized" where a handle found no memory), MPS and CPUs tell it.
_MEMORY = (
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "_STATUS_NOT_INITIALIZED",
    "DEVICE_ALLOCATION_FAILED",
    "HOST_ALLOCATION_FAILED",
    "Invalid buffer size",
    "DefaultCPUAllocator",
)
# After one of these every call fails; most come as an `AcceleratorError`, some (the driver's, Triton's) do not.
_LOST = (
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "uncorrectable ECC error",
    "misaligned address",
)


def backend_error(error: Exception) -> BackendError | None:
    """`OutOfMemory` where a smaller batch may fit, `BackendLost` where nothing will, None where this batch is at fault.

    It holds the first line of the text only: `error` itself would keep the tensors of its frames alive.
    """
    line = (str(error) or type(error).__name__).splitlines()[0]
    memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if memory or getattr(error, "error_code", None) == _CUDA_MEMORY_ALLOCATION or any(text in line for text in _MEMORY):
        return OutOfMemory(line)
    if isinstance(error, torch.AcceleratorError) or any(text in line for text in _LOST):
        return BackendLost(line)
    return None
