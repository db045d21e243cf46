"""What the process does for the application in it: its signals, and the ways it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from uvicorn.config import STARTUP_FAILURE

from reranker_serve.lifecycle import Lifecycle, Process

logger = logging.getLogger(__name__)

LAST_REPLIES_S = 2
_NEXT_REPLACEMENT_S = 10
# Unlike uvicorn's status for a failed start, after which its supervisor gives up.
_MODEL_DIED = 4
_INTERRUPTED = 130


class SharedFlag:
    """Set once for all processes that have it: a message in a pipe that nobody takes out; no lock to die with."""

    def __init__(self) -> None:
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)

    def set(self) -> None:
        self._writer.send_bytes(b"set")

    def is_set(self) -> bool:
        return self._reader.poll()


def this_process(load_first: bool = False) -> Process:
    """A process that serves by itself, or beside others that uvicorn started and that nobody tells of it."""
    return Process(_end_failed_start, _end_dead_process, _stop_signals, load_first, _freeze_garbage)


def worker_process(others_serve: SharedFlag) -> Process:
    """One of several workers: the first answers while it loads, and sets the flag; who comes later loads first."""
    if others_serve.is_set():
        return Process(_end_replacement, _end_dead_process, _stop_signals, True, _freeze_garbage)

    def ready() -> None:
        _freeze_garbage()
        others_serve.set()

    return Process(_end_failed_start, _end_dead_process, _stop_signals, False, ready)


def supervised_process() -> Process:
    """A process of a program that sends its own signals, sees how it ends, and starts another."""
    return Process(on_death=_end_dead_process)


def end_beside_threads() -> None:
    """End the process with success now, if a thread runs on that nobody waits for: it loads, or computes too long.

    Python's own end of a process stops such a thread when it comes back from native code, which C++ takes for a crash.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def _stop_signals(lifecycle: Lifecycle) -> Iterator[None]:
    """Let the lifecycle know of SIGTERM before uvicorn, which closes the listening socket at once.

    A second SIGTERM, and Ctrl-C, go to uvicorn directly; a second Ctrl-C ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    uvicorns = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def to_uvicorn(number: int, frame: FrameType | None) -> None:
        handler = uvicorns[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, uvicorns[signal.SIGTERM])
        loop.call_soon_threadsafe(
            lambda: tasks.add(loop.create_task(lifecycle.leave(lambda: to_uvicorn(number, frame))))
        )

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
        to_uvicorn(number, frame)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in uvicorns.items():
            signal.signal(number, handler)
        for task in tasks:
            task.cancel()


def _freeze_garbage() -> None:
    """What was imported and loaded lives as long as the process: let no collection look at it again."""
    gc.collect()
    gc.freeze()


def _end_failed_start() -> None:
    """The model cannot be loaded, so nothing was admitted that could be lost.

    This status tells a supervisor that starting again would fail the same way.
    """
    os._exit(STARTUP_FAILURE)


def _end_replacement() -> None:
    """Others serve: fail in a way that lets the supervisor try again, but not at once."""
    time.sleep(_NEXT_REPLACEMENT_S)
    os._exit(1)


def _end_dead_process() -> None:
    """Give the replies of those who waited time to leave, and end: a supervisor starts anew.

    Not through uvicorn, nor with a signal: a thread hangs or is gone, and systemd takes a
    process that died of SIGTERM for one that was stopped.
    """

    def end() -> None:
        logger.critical("ending with status %d, so that a supervisor starts the server anew", _MODEL_DIED)
        os._exit(_MODEL_DIED)

    timer = threading.Timer(LAST_REPLIES_S, end)
    timer.daemon = True
    timer.start()
