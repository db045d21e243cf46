"""A server in the background: start, status, logs, stop, restart.

The server itself holds a lock on the pid file while it lives, so a pid file left behind by a
crash, or a pid that another program has by now, is never mistaken for a running server.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from reranker_serve.errors import StartupError
from reranker_serve.ready import is_ready, local_url
from reranker_serve.settings import Settings

NOT_RUNNING = 3  # the exit status of `status` that init scripts agree on
START_TIMEOUT_S = 900.0
_POLL_S = 0.2
_SHOWN_LINES = 100


def hold_pid_file(path: Path) -> IO[str]:
    """Lock `path` and write this process's id to it; the lock lasts as long as the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
    except BlockingIOError:
        raise StartupError(f"a server is running already ({path})") from None
    except OSError as error:
        raise StartupError(f"cannot write the pid file {path}: {error.strerror}") from None
    return handle


class Daemon:
    """The background server whose pid file and log are in `folder`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._settings = settings
        self.pid_file = folder / "reranker.pid"
        self.log_file = folder / "reranker.log"

    def pid(self) -> int | None:
        """The running server's process id; None if there is none, whatever the pid file says."""
        try:
            with self.pid_file.open() as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(handle.read())
        except (FileNotFoundError, ValueError):
            pass
        return None

    def start(self, arguments: Sequence[str]) -> int:
        """Start `serve` with `arguments` and wait until it answers."""
        running = self.pid()
        if running is not None:
            print(f"already running (pid {running}) on {local_url(self._settings)}")
            return 0
        if self.pid_file.exists():
            print("found the pid file of a server that is gone; removing it")
            self.pid_file.unlink()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "reranker_serve", "serve", "--pid-file", str(self.pid_file), *arguments]
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        print(f"starting (pid {process.pid}), log in {self.log_file}")
        return self._await_ready(process)

    def status(self) -> int:
        running = self.pid()
        if running is None:
            stale = " (its pid file is stale)" if self.pid_file.exists() else ""
            print(f"not running{stale}")
            return NOT_RUNNING
        state = "ready" if is_ready(self._settings) else "not ready yet"
        print(f"running (pid {running}) on {local_url(self._settings)}, {state}")
        return 0

    def logs(self, follow: bool) -> int:
        """Print the log's end, and what is added to it if `follow`."""
        if not self.log_file.exists():
            print(f"no log yet ({self.log_file})")
            return 0
        with self.log_file.open(errors="replace") as log:
            sys.stdout.writelines(deque(log, _SHOWN_LINES))
            while follow:
                sys.stdout.write(log.read())
                sys.stdout.flush()
                time.sleep(_POLL_S)
        return 0

    def stop(self) -> int:
        """Ask the server to finish what it has and stop; wait until it is gone."""
        running = self.pid()
        if running is None:
            print("not running")
            return 0
        os.kill(running, signal.SIGTERM)
        print(f"stopping (pid {running})")
        patience = self._settings.drain_timeout + 10
        if not _wait(lambda: self.pid() is None, patience):
            print(f"still running after {patience:g} s: look at {self.log_file}")
            return 1
        self.pid_file.unlink(missing_ok=True)
        print("stopped")
        return 0

    def _await_ready(self, process: subprocess.Popen[bytes]) -> int:
        _wait(lambda: process.poll() is not None or is_ready(self._settings), START_TIMEOUT_S)
        if process.poll() is not None:
            print(f"the server ended with status {process.returncode}; the end of its log:")
            with self.log_file.open(errors="replace") as log:
                sys.stdout.writelines(deque(log, 10))
            return 1
        if not is_ready(self._settings):
            print(f"not ready after {START_TIMEOUT_S:g} s; it goes on loading: see {self.log_file}")
            return 1
        print(f"ready on {local_url(self._settings)}")
        return 0


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
