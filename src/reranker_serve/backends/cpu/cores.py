"""How many threads to compute with: cores of this process, by affinity and CPU quotas, shared among workers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path


def threads(wanted: int | None, openmp: str | None, cores: int, workers: int) -> int:
    """Threads of one worker: as many as are wanted, else as `OMP_NUM_THREADS` says, else its share of the cores."""
    if wanted is not None:
        return wanted
    return openmp_threads(openmp) or max(1, cores // workers)


def openmp_threads(text: str | None) -> int | None:
    """`OMP_NUM_THREADS`, of whose list for nested loops the first counts; None where it holds no number."""
    found = re.fullmatch(r"\s*([1-9]\d{0,3})\s*(,.*)?", text or "")
    return int(found[1]) if found else None


def available_cores(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores this process may use: its affinity, narrowed by the least CPU quota of its control groups.

    Control groups of version 1 and 2 lie below `groups`; `own` names those of this process.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for folder in _own_groups(groups, own) if (quota := _quota(folder)) is not None]
    return max(1, int(min([cores, *quotas])))


def _own_groups(groups: Path, own: Path) -> Iterator[Path]:
    """The folders that limit this process: of its own group, and of all that this one lies in.

    A line of `own` is `0::/a/b` in version 2, and `4:cpu,cpuacct:/a/b` in version 1. In a container the path may be
    one of the host, of which only the top is there to be seen.
    """
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers if (groups / controllers).exists() else groups / "cpu"
        inner = top / path.strip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _quota(folder: Path) -> float | None:
    """Cores that a group's processes may use together; None for no limit."""
    try:
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # not there, or `max`
        return None
