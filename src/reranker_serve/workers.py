"""Several processes that share one port: who starts and replaces them, and how many there are."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import resource_tracker
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.main import main as uvicorns_command
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from reranker_serve.errors import StartupError
from reranker_serve.process import SharedFlag
from reranker_serve.telemetry.metrics import MULTIPROCESS_DIR

logger = logging.getLogger(__name__)

_REPLACEMENT_READY_S = 1800


class Supervisor(Multiprocess):
    """Starts one worker, and the others when that one serves.

    So a start that fails is told once, and probes are answered from the first moment. Who comes later
    accepts nothing before its model is loaded.
    """

    def __init__(self, config: uvicorn.Config, sock: socket.socket, serving: SharedFlag) -> None:
        super().__init__(config, sockets=[sock])
        self._serving = serving
        self._asked: dict[Process, float] = {}

    def init_processes(self) -> None:
        self._start_worker()

    def keep_subprocess_alive(self) -> None:
        if self.failed:
            self.should_exit.set()
            return
        for process in list(self.processes):
            if process.process.is_alive() and self._hangs(process):
                process.process.kill()
                process.join()
            if not process.process.is_alive():
                logger.error("worker %d ended with status %s; another takes its place", process.pid, process.exitcode)
                self.processes.remove(process)
                self._asked.pop(process, None)
        while len(self.processes) < (self.processes_num if self._serving.is_set() else 1):
            self._start_worker()

    def restart_all(self) -> None:
        usual = self.config.timeout_worker_healthcheck
        self.config.timeout_worker_healthcheck = _REPLACEMENT_READY_S  # which uvicorn takes for starting, too
        try:
            super().restart_all()
        finally:
            self.config.timeout_worker_healthcheck = usual

    @property
    def failed(self) -> bool:
        """Whether a worker found that the server cannot start; it has said why."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)

    def _hangs(self, process: Process) -> bool:
        """Whether it has long been asked for a sign of life, which a thread of its own gives, also while it loads.

        uvicorn waits for the answer: one that dies before it answers keeps its supervisor from all else for as long.
        """
        now = time.monotonic()
        if process not in self._asked:
            process.parent_conn.send(b"ping")
            self._asked[process] = now
        elif process.parent_conn.poll():
            process.parent_conn.recv()
            del self._asked[process]
        return now - self._asked.get(process, now) > self.config.timeout_worker_healthcheck

    def _start_worker(self) -> None:
        process = Process(self.config, self.sockets)
        process.start()
        self.processes.append(process)


def supervise(config: uvicorn.Config, sock: socket.socket, serving: SharedFlag, metrics: bool) -> int:
    """Run workers until told to stop; returns the exit status. Raises `StartupError`.

    A worker sets `serving` when its model is loaded. With `metrics` all count in files of one folder.
    """
    with _metrics_folder() if metrics else nullcontext():
        supervisor = Supervisor(config, sock, serving)
        take_interrupts(supervisor.should_exit)
        supervisor.run()
    return STARTUP_FAILURE if supervisor.failed else 0


def take_interrupts(stop: threading.Event) -> None:
    """Ctrl-C reaches every process of a terminal: keep it from children, which may print a traceback or end too early.

    The first sets `stop`; one after that kills the children, which may be answering still. On a thread,
    because the main one waits for them, and by what Python writes when a signal comes.
    """
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)

    def take() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with ours, pythons:
            while came := ours.recv(1):
                if came[0] != signal.SIGINT:
                    continue
                if stop.is_set():
                    for child in multiprocessing.active_children():
                        child.kill()
                stop.set()

    resource_tracker.ensure_running()  # the first child would start it, and that lets the signal through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    threading.Thread(target=take, name="interrupts", daemon=True).start()


@contextmanager
def _metrics_folder() -> Iterator[None]:
    try:
        folder = tempfile.mkdtemp(prefix="reranker-metrics-")
    except OSError:
        raise StartupError(
            "several workers count in files of a temporary folder, and there is none that can be written:"
            " mount a writable /tmp, set TMPDIR to a writable folder, or set RERANKER_ENABLE_METRICS=false"
        ) from None
    os.environ[MULTIPROCESS_DIR] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def uvicorns_workers(command: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """How many workers this command line of uvicorn starts; None if it is none of uvicorn's.

    A process that multiprocessing started has the command line of its parent in `sys.argv`.
    """
    program = Path(command[0])
    if "uvicorn" not in (program.name, program.parent.name):  # bin/uvicorn, uvicorn/__main__.py
        return None
    options = uvicorns_command.make_context("uvicorn", [*command[1:]], resilient_parsing=True).params
    if options["reload"]:
        return 1
    return options["workers"] or int(environ.get("WEB_CONCURRENCY", 1))
