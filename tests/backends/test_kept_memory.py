"""Freed memory is kept from batch to batch, and goes back after a while."""

from __future__ import annotations

import platform

import pytest
import torch

from reranker_serve.backends.cpu.kept_memory import KeptMemory
from tests.memory import resident_bytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc only")
def test_gaps_in_memory_are_given_back_after_a_while() -> None:
    now = 0.0
    kept = KeptMemory(clock=lambda: now)
    # What stays lies between what is freed, so that the free memory is gaps and not the end.
    pairs = [(torch.ones(25_000), torch.ones(1_000)) for _ in range(1000)]
    staying = [small for _, small in pairs]
    full = resident_bytes()
    del pairs
    kept.relieve()
    assert resident_bytes() > full - 10e6, "kept for the next batch"
    now = 3600.0
    kept.relieve()
    assert resident_bytes() < full - 50e6
    del staying
