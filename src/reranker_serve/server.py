"""Runs the application under uvicorn: one process, several workers, or with auto-reload."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, Multiprocess

from reranker_serve.app import create_app
from reranker_serve.errors import PortError, SettingsError
from reranker_serve.loader import check
from reranker_serve.settings import Settings, load_settings
from reranker_serve.telemetry.logs import configure_logging
from reranker_serve.telemetry.metrics import MULTIPROCESS_DIR
from reranker_serve.types import Scorer

logger = logging.getLogger(__name__)

_WORKER = "reranker_serve.server:worker_application"
# A worker that imports torch on a busy machine may not answer its supervisor for a while.
_WORKER_HEALTHCHECK_S = 60
_LAST_REPLIES_S = 5


def application() -> FastAPI:
    """The application as the environment configures it, for `uvicorn src.main:app`.

    Exits with one line if it cannot start.
    """
    try:
        settings, warnings = load_settings()
    except SettingsError as error:
        raise SystemExit(f"error: {error}") from None
    configure_logging(settings.log_level, settings.log_format)
    for warning in warnings:
        logger.warning("%s", warning)
    return create_app(settings, on_failure=_end_process)


def worker_application() -> FastAPI:
    """The same for a worker, whose supervisor has reported the settings already."""
    settings, _ = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings, on_failure=_end_process)


def serve(settings: Settings, reload: bool = False, scorer: Scorer | None = None) -> int:
    """Serve until told to stop; returns the exit status. Raises `PortError`.

    `scorer` is served as it is, in this process; without one the configured model is loaded.
    """
    sock = bind(settings.host, settings.port)
    several = settings.workers > 1 and not reload
    config = uvicorn.Config(
        _WORKER if reload or several else create_app(settings, scorer, on_failure=_end_process),
        factory=reload or several,
        workers=settings.workers if several else 1,
        reload=reload,
        reload_dirs=[str(Path(__file__).parent)] if reload else None,
        log_config=None,
        access_log=False,
        server_header=False,
        # Every request ends by its own timeout; none is cut off before.
        timeout_graceful_shutdown=int(settings.request_timeout) + _LAST_REPLIES_S,
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
    return 0


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


def _supervise(config: uvicorn.Config, sock: socket.socket, settings: Settings) -> int:
    check(settings)
    metrics = tempfile.mkdtemp(prefix="reranker-metrics-")
    os.environ[MULTIPROCESS_DIR] = metrics
    try:
        supervisor = Multiprocess(config, sockets=[sock])
        supervisor.run()
    finally:
        shutil.rmtree(metrics, ignore_errors=True)
    failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    return STARTUP_FAILURE if failed else 0


def _end_process() -> None:
    """The model cannot be loaded, so nothing was admitted that could be lost.

    This status tells a supervisor that starting again would fail the same way.
    """
    os._exit(STARTUP_FAILURE)
