"""What /proc tells of a server process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.server.processes import Server

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads from /proc")


def resident_kib(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def cpu_seconds(server: Server) -> float:
    fields = _fields(Path(f"/proc/{server.process.pid}/stat"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tasks(server: Server) -> int:
    """asyncio's tasks, of which the fake server tells the number when it is asked."""
    told = server.output.count("tasks=")
    os.kill(server.process.pid, signal.SIGUSR1)
    deadline = time.monotonic() + 5
    while server.output.count("tasks=") == told:
        assert time.monotonic() < deadline, "the server does not tell its tasks"
        time.sleep(0.02)
    return int(re.findall(r"tasks=(\d+)", server.output)[-1])


def workers(server: Server) -> set[int]:
    """Process ids of the server's children that run the application."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(_fields(entry)[1])
            if parent == server.process.pid and b"spawn_main" in entry.with_name("cmdline").read_bytes():
                found.add(int(entry.parent.name))
    return found


def peers(pid: int) -> set[int]:
    """The callers' ports of all connections that a process holds."""
    own = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(fields[2].split(":")[1], 16) for fields in lines if f"socket:[{fields[9]}]" in own} - {0}


def _fields(stat: Path) -> list[str]:
    """From the state on: the command name before it is in parentheses, and may hold blanks."""
    return stat.read_text().rsplit(")", 1)[1].split()
