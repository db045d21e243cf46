"""What this process holds in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STATM = Path("/proc/self/statm")

needs_statm = pytest.mark.skipif(not STATM.exists(), reason="reads memory from /proc")


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
