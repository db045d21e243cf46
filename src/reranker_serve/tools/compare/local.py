"""A model in a process of its own, so that what one leaves running does not slow another."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from reranker_serve.errors import RerankerError, StartupError
from reranker_serve.settings import Settings
from reranker_serve.telemetry.logs import configure_logging
from reranker_serve.tools.in_process import Ask, in_order, load_in_process, run_in_process
from reranker_serve.types import RerankRequest


class LocalRanker:
    """Loads the model. Raises `StartupError` with one line."""

    def __init__(self, label: str, settings: Settings) -> None:
        self._label = label
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self.about: dict[str, Any] = self._answered()

    def score(self, query: str, documents: Sequence[str]) -> tuple[list[float], float]:
        scores, seconds = self._answered((query, tuple(documents)))
        return scores, seconds

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def _answered(self, request: tuple[str, tuple[str, ...]] | None = None) -> Any:
        try:
            if request:
                self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            killed = self._process.exitcode == -signal.SIGKILL
            why = "was killed: did memory run out?" if killed else "ended unexpectedly"
            raise StartupError(f"{self._label} {why}") from None
        if isinstance(answer, str):
            raise StartupError(f"{self._label}: {answer}")
        return answer


def _answer(connection: Connection, settings: Settings) -> None:
    """In the process: what the model is, then an answer to each request; a string is an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    configure_logging(settings.log_level, settings.log_format)
    try:
        scorer = load_in_process(settings)
    except RerankerError as error:
        connection.send(str(error))
        return
    info, backend = scorer.info, scorer.backend
    about = {"model": info.name, "revision": info.revision, "precision": backend.dtype, "device": backend.device}
    connection.send(about)

    def work(ask: Ask) -> None:
        while True:
            try:
                query, documents = connection.recv()
            except EOFError:
                return
            start = time.perf_counter()
            try:
                result = ask(RerankRequest(query, documents, raw_scores=True))
            except RerankerError as error:
                connection.send(str(error))
                continue
            connection.send((in_order(result), time.perf_counter() - start))

    run_in_process(scorer, settings, work)
