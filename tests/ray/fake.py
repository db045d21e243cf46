"""The fleet's application over the fake model, for a cluster's processes to import.

FAKE_PIDS is a folder in which each replica leaves a file named by its process. FAKE_SECONDS is what a token takes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ray.serve import Application

from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.scale.ray import Arguments, application
from reranker_serve.settings import Settings
from reranker_serve.types import Scorer, count_tokens


def load(settings: Settings) -> Scorer:
    """As slow as told, of a machine and of a model that is being loaded."""
    time.sleep(float(os.environ.get("FAKE_LOADING", "0")))
    (Path(os.environ["FAKE_PIDS"]) / str(os.getpid())).write_text(settings.model_name)
    seconds = float(os.environ.get("FAKE_SECONDS", "0"))
    backend = FakeBackend(lambda items: time.sleep(seconds * count_tokens(items)), batch_token_cap=256)
    return fake_scorer(backend)


def fleet(settings: Settings, **arguments: object) -> Application:
    return application(Arguments.model_validate({"num_cpus": 0.1, **arguments}), settings, load)
