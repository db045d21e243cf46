"""Runs the application under uvicorn: one process, several workers, or with auto-reload."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import ChangeReload

from reranker_serve.app import accepted_keys, create_app, given_calibration, given_ledger, given_record
from reranker_serve.connections import Bounds, ServerConfig, allow_connections
from reranker_serve.environment import load_settings
from reranker_serve.errors import PortError, SettingsError
from reranker_serve.process import LAST_REPLIES_S, SharedFlag, end_beside_threads, this_process, worker_process
from reranker_serve.settings import Settings
from reranker_serve.telemetry.logs import configure_logging
from reranker_serve.types import Scorer
from reranker_serve.workers import supervise, take_interrupts, uvicorns_workers

logger = logging.getLogger(__name__)

# A worker that imports torch from a cold disk may give no sign of life for a while.
_WORKER_HEALTHCHECK_S = 120


def application() -> FastAPI:
    """The application as the environment configures it, for `uvicorn src.main:app`.

    Exits with one line if it cannot start.
    """
    try:
        settings, warnings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        for warning in warnings:
            logger.warning("%s", warning)
        if multiprocessing.parent_process() is not None:
            return _application_of_a_child(settings)
        return create_app(settings, process=this_process())
    except SettingsError as error:
        raise SystemExit(f"error: {error}") from None


def _application_of_a_child(settings: Settings) -> FastAPI:
    """The cores and the rates of callers are divided among the workers that uvicorn runs, so how many are there?"""
    workers = uvicorns_workers(sys.argv, os.environ)
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    elif not {"workers", "cpu_threads"} & settings.model_fields_set:
        logger.warning("how many workers there are cannot be seen: set RERANKER_WORKERS, or each uses all cores")
    return create_app(settings, process=this_process(load_first=workers != 1))


def reloaded_application() -> FastAPI:
    """The same for a process that is started again when the source changes; the settings were reported already."""
    settings, _ = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings, process=this_process())


def worker_application(others_serve: SharedFlag, scorer: Scorer | None = None) -> FastAPI:
    """The same for one of several workers, which share the flag."""
    settings, _ = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings, scorer, worker_process(others_serve))


def serve(
    settings: Settings,
    reload: bool = False,
    scorer: Scorer | None = None,
    worker: Callable[[SharedFlag], FastAPI] = worker_application,
) -> int:
    """Serve until told to stop; returns the exit status. Raises `StartupError`.

    `scorer` is served as it is, in this process; without one the configured model is loaded.
    `worker` makes the application of one of several workers.
    """
    _check_certificate(settings)
    # A worker, or a reloaded process, has nobody to tell that it cannot start.
    accepted_keys(settings)
    given_calibration(settings)
    given_ledger(settings, given_record(settings))
    sock = bind(settings.host, settings.port)
    # uvicorn raises a signal again when it has stopped: a graceful stop is a success, not a death.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if reload:
        return _serve_reloading(settings, sock)
    if settings.workers > 1:
        serving = SharedFlag()
        config = _config(settings, partial(worker, serving), factory=True, workers=settings.workers)
        return supervise(config, sock, serving, settings.enable_metrics)
    uvicorn.Server(_config(settings, create_app(settings, scorer, this_process()))).run(sockets=[sock])
    end_beside_threads()
    return 0


def _serve_reloading(settings: Settings, sock: socket.socket) -> int:
    application = f"{__name__}:{reloaded_application.__name__}"
    config = _config(settings, application, factory=True, reload=True, reload_dirs=[str(Path(__file__).parent)])
    reloader = ChangeReload(config, target=uvicorn.Server(config).run, sockets=[sock])
    take_interrupts(reloader.should_exit)
    reloader.run()
    return 0


def _config(settings: Settings, app: Any, **how: Any) -> ServerConfig:
    return ServerConfig(
        app,
        Bounds(settings.read_timeout, _connections(settings)),
        timeout_keep_alive=settings.keep_alive,
        ssl_certfile=settings.tls_certfile,
        ssl_keyfile=settings.tls_keyfile,
        log_config=None,
        access_log=False,
        server_header=False,
        # The lifecycle has failed what was left by then; this is for callers who still send or do not read.
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout) + LAST_REPLIES_S,
        timeout_worker_healthcheck=_WORKER_HEALTHCHECK_S,
        **how,
    )


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


def _connections(settings: Settings) -> int:
    fit = allow_connections(settings.max_connections)
    if fit < settings.max_connections and "max_connections" in settings.model_fields_set:
        logger.warning("at most %d connections: the limit of open files (ulimit -n) allows no more", fit)
    return fit
