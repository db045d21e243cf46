"""A fleet over the fake model, for the processes of a cluster to import."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from ray.serve import Application

from reranker_serve.backends.fake import fake_scorer
from reranker_serve.scale.ray import Arguments, application
from reranker_serve.settings import Settings
from reranker_serve.types import Scorer, count_tokens
from tests.conftest import fake_settings
from tests.server.fake_server import FaultyBackend, UnservableBackend


def load(settings: Settings, pids: Path, token: float, loading: float, named: bool) -> Scorer:
    """Takes `loading` seconds, and then leaves a file in `pids` that is named by the process, as is the model if it is
    to be. A token is computed in `token` seconds.
    """
    time.sleep(loading)
    (pids / str(os.getpid())).touch()
    backend = FaultyBackend(lambda items: time.sleep(token * count_tokens(items)), batch_token_cap=256)
    scorer = fake_scorer(backend)
    name = f"process-{os.getpid()}" if named else settings.model_name
    return replace(scorer, info=replace(scorer.info, name=name), warm_ups=((1000, 1000 * token),) if token else ())


def load_unservable(settings: Settings) -> Scorer:
    """Shows its bug when it is to be served."""
    return fake_scorer(UnservableBackend())


def fleet(
    pids: Path,
    settings: dict[str, str],
    token: float = 0.0,
    loading: float = 0.0,
    named: bool = False,
    **arguments: object,
) -> Application:
    """`arguments` are those of the application."""
    given = Arguments.model_validate({"num_cpus": 0.1, "report_seconds": 0.5, **arguments})
    loader = partial(load, pids=pids, token=token, loading=loading, named=named)
    return application(given, fake_settings(**{"model_name": "fake", "drain_delay": "0.5", **settings}), loader)
