"""The folder in which workers count together: a library reads which one it is when it is imported."""

from __future__ import annotations

import os

_NAMES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def forget_foreign_folder() -> None:
    """Take no folder from outside, which may be gone or hold another program's counts. Call it before other imports."""
    for name in _NAMES:
        os.environ.pop(name, None)
