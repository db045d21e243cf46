"""The real server over the fake scorer. SECONDS_PER_BATCH slows the model; BATCH_TOKENS caps a batch."""

import os
import time

from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.server import serve
from reranker_serve.settings import load_settings
from reranker_serve.telemetry.logs import configure_logging

seconds = float(os.environ.get("SECONDS_PER_BATCH", "0"))
cap = int(os.environ.get("BATCH_TOKENS", "4096"))
settings, _ = load_settings()
configure_logging(settings.log_level, settings.log_format)
backend = FakeBackend(before_forward=lambda _: time.sleep(seconds), batch_token_cap=cap)
raise SystemExit(serve(settings, scorer=fake_scorer(backend)))
