"""What /proc tells of a server process."""

from __future__ import annotations

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
    # The command name in parentheses may hold blanks; user and system time are the 14th and 15th field.
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
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
