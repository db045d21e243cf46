"""Runs the application under uvicorn: one process, several workers, or with auto-reload."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, Multiprocess

from reranker_serve.app import accepted_keys, create_app
from reranker_serve.connections import Bounds, ServerConfig, allow_connections
from reranker_serve.errors import PortError, SettingsError
from reranker_serve.lifecycle import Lifecycle, Process
from reranker_serve.loader import check
from reranker_serve.settings import Settings, load_settings
from reranker_serve.telemetry.logs import configure_logging
from reranker_serve.telemetry.metrics import MULTIPROCESS_DIR
from reranker_serve.types import Scorer

logger = logging.getLogger(__name__)

_WORKER = "reranker_serve.server:worker_application"
# A worker that imports torch on a busy machine may not answer its supervisor for a while.
_WORKER_HEALTHCHECK_S = 60
_LAST_REPLIES_S = 2
# Set for workers that are started later than the first ones, while others serve.
_REPLACES = "_RERANKER_REPLACES_A_WORKER"
_REPLACEMENT_READY_S = 1800
_NEXT_REPLACEMENT_S = 10
# Unlike uvicorn's status for a failed start, after which its supervisor gives up.
_MODEL_DIED = 4


def application() -> FastAPI:
    """The application as the environment configures it, for `uvicorn src.main:app`.

    Exits with one line if it cannot start.
    """
    try:
        settings, warnings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        for warning in warnings:
            logger.warning("%s", warning)
        return create_app(settings, process=_this_process())
    except SettingsError as error:
        raise SystemExit(f"error: {error}") from None


def worker_application(scorer: Scorer | None = None) -> FastAPI:
    """The same for a worker, whose supervisor has reported the settings already."""
    settings, _ = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    replaces = _REPLACES in os.environ
    return create_app(settings, scorer, _this_process(replaces))


def serve(settings: Settings, reload: bool = False, scorer: Scorer | None = None, worker: str = _WORKER) -> int:
    """Serve until told to stop; returns the exit status. Raises `PortError` and `SettingsError`.

    `scorer` is served as it is, in this process; without one the configured model is loaded.
    `worker` names what makes the application where it runs in processes of its own.
    """
    _check_certificate(settings)
    accepted_keys(settings)  # a worker, or a reloaded process, has nobody to tell that it cannot start
    sock = bind(settings.host, settings.port)
    several = settings.workers > 1 and not reload
    config = ServerConfig(
        worker if reload or several else create_app(settings, scorer, _this_process()),
        Bounds(settings.read_timeout, _connections(settings)),
        timeout_keep_alive=settings.keep_alive,
        factory=reload or several,
        workers=settings.workers if several else 1,
        reload=reload,
        reload_dirs=[str(Path(__file__).parent)] if reload else None,
        ssl_certfile=settings.tls_certfile,
        ssl_keyfile=settings.tls_keyfile,
        log_config=None,
        access_log=False,
        server_header=False,
        # The lifecycle has failed what was left by then; this is for callers who still send or do not read.
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout) + _LAST_REPLIES_S,
        timeout_worker_healthcheck=_WORKER_HEALTHCHECK_S,
    )
    # uvicorn raises the signal again when it has stopped: a graceful stop is a success, not a death.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        if reload:
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=[sock]).run()
            return 0
        if several:
            return _supervise(config, sock, settings)
        uvicorn.Server(config).run(sockets=[sock])
    except KeyboardInterrupt:
        pass
    _end_beside_threads()
    return 0


def _end_beside_threads() -> None:
    """End the process with success now, if a thread runs on that nobody waits for: it loads, or computes too long.

    Python's own end of a process stops such a thread when it comes back from native code, which C++ takes for a crash.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _check_certificate(settings: Settings) -> None:
    """Raises `SettingsError` unless HTTPS is not wanted, or certificate and key are there and belong together."""
    certificate, key = settings.tls_certfile, settings.tls_keyfile
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise SettingsError("RERANKER_TLS_CERTFILE and RERANKER_TLS_KEYFILE go together: set both or none")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"{certificate} and {key} are no certificate and its key: {reason}") from None


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises `PortError` with one line."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise PortError(f"RERANKER_HOST={host} is no address of this machine: {error.strerror or error}") from None
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        sock.bind(address)
        # Two sockets may bind to one free port; only one may listen.
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise PortError(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what uses it, or set RERANKER_PORT"
        ) from None
    sock.set_inheritable(True)
    return sock


class _Supervisor(Multiprocess):
    """A worker that replaces another accepts nothing before its model is loaded: the others serve."""

    def init_processes(self) -> None:
        super().init_processes()
        os.environ[_REPLACES] = "1"  # inherited by whatever is started from now on

    def restart_all(self) -> None:
        usual = self.config.timeout_worker_healthcheck
        self.config.timeout_worker_healthcheck = _REPLACEMENT_READY_S  # which uvicorn takes for starting, too
        try:
            super().restart_all()
        finally:
            self.config.timeout_worker_healthcheck = usual


def _supervise(config: uvicorn.Config, sock: socket.socket, settings: Settings) -> int:
    check(settings)
    metrics = tempfile.mkdtemp(prefix="reranker-metrics-")
    os.environ[MULTIPROCESS_DIR] = metrics
    try:
        supervisor = _Supervisor(config, sockets=[sock])
        supervisor.run()
    finally:
        shutil.rmtree(metrics, ignore_errors=True)
    failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    return STARTUP_FAILURE if failed else 0


@contextmanager
def _stop_signals(lifecycle: Lifecycle) -> Iterator[None]:
    """Let the lifecycle know of SIGTERM before uvicorn, which closes the listening socket at once.

    A second signal, and Ctrl-C, go to uvicorn directly.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    uvicorns = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        def go() -> None:
            if callable(uvicorns):
                uvicorns(number, frame)

        signal.signal(signal.SIGTERM, uvicorns)
        loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(lifecycle.leave(go))))

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, uvicorns)
        for task in tasks:
            task.cancel()


def _this_process(replaces: bool = False) -> Process:
    return Process(
        _end_replacement if replaces else _end_process, _end_dead_process, _stop_signals, replaces, _freeze_garbage
    )


def _freeze_garbage() -> None:
    """What was imported and loaded lives as long as the process: let no collection look at it again."""
    gc.collect()
    gc.freeze()


def _connections(settings: Settings) -> int:
    fit = allow_connections(settings.max_connections)
    if fit < settings.max_connections and "max_connections" in settings.model_fields_set:
        logger.warning("at most %d connections: the limit of open files (ulimit -n) allows no more", fit)
    return fit


def _end_process() -> None:
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

    timer = threading.Timer(_LAST_REPLIES_S, end)
    timer.daemon = True
    timer.start()
