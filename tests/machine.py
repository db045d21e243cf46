"""What this machine's processor can do."""

from __future__ import annotations

import pytest

from reranker_serve.backends.torch.machine import inspect_machine

_MACHINE = inspect_machine()

needs_bfloat16 = pytest.mark.skipif(not _MACHINE.cpu_bfloat16, reason="this processor does not multiply bfloat16")
needs_int8 = pytest.mark.skipif(not _MACHINE.cpu_int8, reason="this processor does not multiply 8-bit integers")
