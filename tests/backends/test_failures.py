"""What torch's errors mean, and what they keep alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from reranker_serve.backends.device import Place
from reranker_serve.backends.torch import load as torch_load
from reranker_serve.backends.torch.backend import CudaBackend, TorchBackend
from reranker_serve.backends.torch.load import load_finite
from reranker_serve.checkpoint import read_folder
from reranker_serve.errors import BackendError, BackendLost, ModelError, OutOfMemory
from reranker_serve.readouts import ClassifierReadout
from reranker_serve.types import EncodedItem
from tests.checkpoints import save_cross_encoder

ITEMS = [EncodedItem(np.arange(5, 14, dtype=np.int32), 9)]

_ADVICE = """
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


def accelerator(text: str, code: int) -> Exception:
    error = torch.AcceleratorError(f"CUDA error: {text}{_ADVICE}")
    error.error_code = code
    return error


def allocation_failure() -> Exception:
    """What torch itself raises here."""
    try:
        torch.empty(10**15)
    except RuntimeError as error:
        return error
    raise AssertionError("there is a petabyte of memory")


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    accelerator("out of memory", 2),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 7.64 GiB, other allocations: 8.91 GiB, max allowed: 18.13 GiB)."
        " Tried to allocate 3.92 GiB on private pool."
    ),
    RuntimeError("Invalid buffer size: 24.00 GiB"),  # of MPS, where one tensor is more than a buffer can be
    allocation_failure(),
    MemoryError("Unable to allocate 7.28 TiB for an array"),
]
LOST = [
    accelerator("an illegal memory access was encountered", 700),
    accelerator("device-side assert triggered", 710),
    accelerator("unspecified launch failure", 719),
    accelerator("uncorrectable ECC error encountered", 214),
    accelerator("misaligned address", 716),
    accelerator("unknown error", 999),
    RuntimeError("CUDA driver error: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: device-side assert triggered"),
]
ITS_OWN = [
    RuntimeError("The size of tensor a (5) must match the size of tensor b (4) at non-singleton dimension 1"),
    RuntimeError(""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def name(error: Exception) -> str:
    return str(error).splitlines()[0][:60] if str(error) else "no text"


@pytest.mark.parametrize("kind", [TorchBackend, CudaBackend])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((error, OutOfMemory) for error in MEMORY),
        *((error, BackendLost) for error in LOST),
        *((error, type(error)) for error in ITS_OWN),
    ],
    ids=name,
)
def test_a_failed_pass_says_whether_a_smaller_one_may_fit(
    error: Exception, expected: type[Exception], kind: type[TorchBackend], model: Any
) -> None:
    backend = kind(model, ClassifierReadout(), "cpu")

    def fail(*_: Any) -> None:
        raise error

    with failing(model, fail), pytest.raises((RuntimeError, MemoryError, BackendError)) as caught:
        run(backend)
    assert type(caught.value) is expected
    if expected in (OutOfMemory, BackendLost):
        assert "\n" not in str(caught.value)
        assert str(caught.value) in str(error)
    assert run(backend).shape == (1, 1)


@pytest.mark.parametrize("kind", [TorchBackend, CudaBackend])
def test_an_error_keeps_nothing_of_its_pass(kind: type[TorchBackend], model: Any) -> None:
    backend = kind(model, ClassifierReadout(), "cpu")
    states: list[weakref.ref[torch.Tensor]] = []

    def fill_memory(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        states.append(weakref.ref(inputs[0]))
        torch.empty(10**15)

    with failing(model, fill_memory), pytest.raises(OutOfMemory) as caught:
        run(backend)
    assert [state() for state in states] == [None], "the layer's input is alive, for the error is"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MEMORY[0], r"does not fit the memory of cpu: CUDA out of memory\. Tried"),
        (
            accelerator("no kernel image is available for execution on the device", 209),
            r"^cpu cannot compute \(CUDA error: no kernel image .* device\): check it, or set RERANKER_DEVICE=cpu$",
        ),
    ],
)
def test_a_device_that_fails_while_loading_is_told_in_one_line(
    error: Exception, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(torch_load, "load_weights", fail)
    with pytest.raises(ModelError, match=line) as caught:
        load_finite(read_folder(folder), ClassifierReadout(), [Place("cpu")], ("float32",))
    assert "\n" not in str(caught.value)


class failing:
    """While it is entered, `act` is called before the last layer but one is done."""

    def __init__(self, model: Any, act: Callable[..., None]) -> None:
        self._handle = model.base_model.encoder.layer[1].output.register_forward_pre_hook(act)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def run(backend: TorchBackend) -> Any:
    return backend.begin(ITEMS)() if isinstance(backend, CudaBackend) else backend.forward(ITEMS)
