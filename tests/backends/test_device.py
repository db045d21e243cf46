from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.backends import device as policy
from reranker_serve.backends.device import DType, Machine, choose_devices, choose_precisions
from reranker_serve.backends.torch.padded import buckets
from reranker_serve.errors import ModelError
from tests.checkpoints import load_scorer, save_cross_encoder
from tests.machine import needs_bfloat16

CPU = Machine(cuda_devices=0, mps=False, cpu_bfloat16=False, cpu_int8=False)
BF16 = Machine(cuda_devices=0, mps=False, cpu_bfloat16=True, cpu_int8=True)
MAC = Machine(cuda_devices=0, mps=True, cpu_bfloat16=False, cpu_int8=False)
GPU = Machine(
    cuda_devices=2,
    mps=False,
    cpu_bfloat16=True,
    cpu_int8=True,
    cuda_bfloat16=frozenset({0}),
    cuda_capabilities=((9, 0), (7, 5)),
)
FOUR = Machine(4, False, False, False, frozenset(range(4)), ((9, 0),) * 4)


@pytest.mark.parametrize(
    ("requested", "machine", "device"),
    [
        (None, CPU, "cpu"),
        (None, MAC, "mps"),
        (None, GPU, "cuda:0"),  # the other one is of another kind
        (None, FOUR, "cuda:0 cuda:1 cuda:2 cuda:3"),
        ("cuda", FOUR, "cuda:0 cuda:1 cuda:2 cuda:3"),
        ("cuda:2,cuda:0", FOUR, "cuda:2 cuda:0"),
        ("cuda:0,cuda:1", GPU, "cuda:0 cuda:1"),
        ("cpu", GPU, "cpu"),
        ("cuda", GPU, "cuda:0"),
        ("cuda:1", GPU, "cuda:1"),
        ("mps", MAC, "mps"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_best_there_is(
    requested: str | None, machine: Machine, device: str
) -> None:
    assert choose_devices(requested, machine) == tuple(device.split())


@pytest.mark.parametrize(
    ("requested", "machine"),
    [("cuda", CPU), ("cuda:2", GPU), ("cuda:0,cuda:2", GPU), ("mps", GPU)],
)
def test_a_device_that_is_not_there_is_named(requested: str, machine: Machine) -> None:
    with pytest.raises(ModelError, match=f"RERANKER_DEVICE={requested}"):
        choose_devices(requested, machine)


@pytest.mark.parametrize(
    ("device", "half", "stored", "machine", "precisions"),
    [
        ("cuda:0", True, "bfloat16", GPU, "bfloat16 float32"),
        ("cuda:0", True, "float32", GPU, "float16 bfloat16 float32"),
        ("cuda:0", True, "float16", GPU, "float16 float32"),
        ("cuda:0", True, None, GPU, "float16 bfloat16 float32"),
        ("cuda:1", True, "bfloat16", GPU, "float16 float32"),  # the older of the two
        ("cuda:1", True, "float32", GPU, "float16 float32"),
        ("cuda:0 cuda:1", True, "bfloat16", GPU, "float16 float32"),
        ("cuda:0 cuda:1", True, "bfloat16", FOUR, "bfloat16 float32"),
        ("cuda:0", False, "bfloat16", GPU, "float32"),
        ("cpu", True, "float32", BF16, "bfloat16 float32"),
        ("cpu", True, "float16", BF16, "bfloat16 float32"),
        ("cpu", True, "bfloat16", CPU, "float32"),
        ("cpu", False, "bfloat16", BF16, "float32"),
        ("mps", True, "bfloat16", MAC, "float32"),
    ],
)
def test_half_precision_where_the_device_gains_and_the_checkpoint_fits_it(
    device: str, half: bool, stored: DType | None, machine: Machine, precisions: str
) -> None:
    assert choose_precisions(device.split(), half, stored, machine) == tuple(precisions.split())


def test_what_torch_reads_when_loaded_is_set_unless_the_user_set_it() -> None:
    wanted = policy.environment_before_torch()
    assert wanted == {"PYTORCH_ENABLE_MPS_FALLBACK": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"}
    assert policy.apply_environment({}, wanted) == wanted
    given = {"PYTORCH_ENABLE_MPS_FALLBACK": "0"}
    assert policy.apply_environment(given, wanted) == {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"}


@pytest.mark.parametrize(
    ("allocated", "recommended", "pressure"), [(0, 100, False), (50, 100, False), (57, 100, True), (10, 0, False)]
)
def test_cached_memory_goes_back_under_pressure(allocated: int, recommended: int, pressure: bool) -> None:
    assert policy.under_mps_pressure(allocated, recommended) is pressure


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=50), tokens=st.integers(1, 2000))
def test_buckets_hold_every_item_once_within_the_tokens(lengths: list[int], tokens: int) -> None:
    groups = list(buckets(lengths, tokens))
    assert sorted(position for group in groups for position in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[position] for position in group)
        assert longest * len(group) <= tokens or len(group) == 1
        assert min(lengths[position] for position in group) >= longest / 2


@needs_bfloat16
@pytest.mark.parametrize("name", ["xlm-roberta", "bert", "modernbert", "modernbert-mean"])
def test_bfloat16_packed_stays_close_to_float32(name: str, tmp_path: Path) -> None:
    folder = save_cross_encoder(name, tmp_path)
    full, half = load_scorer(folder), load_scorer(folder, use_fp16="true", device="cpu")
    assert (full.backend.dtype, half.backend.dtype) == ("float32", "bfloat16")
    documents = ["plants", "the stock market fell " * 8, "sun light and water", "", "whale " * 100]
    items = full.family.encode("how do plants make food", documents, max_length=120, instruction=None).items
    np.testing.assert_allclose(half.backend.forward(items), full.backend.forward(items), atol=0.1, rtol=0)
    assert half.backend.attention == "packed per segment"


@given(free=st.integers(0, 2**37), peak=st.integers(0, 2**33), tokens=st.integers(1, 8192))
def test_a_pass_of_the_tokens_that_fit_a_gpu_leaves_memory_free(free: int, peak: int, tokens: int) -> None:
    fitting = policy.fitting_tokens(free, peak, tokens)
    assert fitting >= tokens  # what was just seen to fit
    assert fitting == tokens or fitting * peak <= 0.81 * free * tokens


def test_batches_of_a_small_model_are_larger_on_a_cpu(tmp_path: Path) -> None:
    """The base shape has 85 million numbers in its layers, MiniLM-L12's 21 million."""
    assert policy.cpu_batch_tokens(85_000_000) == 2048
    assert policy.cpu_batch_tokens(21_000_000) == 4096
    assert load_scorer(save_cross_encoder("bert", tmp_path)).backend.batch_token_cap == 4096
