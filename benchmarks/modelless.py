"""The server around no model, to see what the server alone costs: `python -m benchmarks.modelless TOKENIZER`.

`trivial` splits at spaces, `demo` is the demo model's tokenizer. Each batch is answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.demo import demo_folder
from reranker_serve.environment import load_settings
from reranker_serve.families.registry import build_family, read_checkpoint
from reranker_serve.readouts import PooledReadout
from reranker_serve.server import serve
from reranker_serve.settings import Settings
from reranker_serve.telemetry.logs import configure_logging
from reranker_serve.types import EncodedItem, FloatArray, ModelInfo, Scorer

# Few enough that a batch is not put together of hundreds of requests.
_BATCH_TOKENS = 100_000


class Ones:
    """Rows of ones, of the width that the family reads."""

    device, dtype, attention = "cpu", "float32", "none"
    batch_token_cap: int | None = _BATCH_TOKENS

    def __init__(self, width: int) -> None:
        self._row = np.ones((1, width), dtype=np.float32)

    def forward(self, items: Sequence[EncodedItem]) -> FloatArray:
        return np.repeat(self._row, len(items), axis=0)


def scorer(tokenizer: str, settings: Settings) -> Scorer:
    if tokenizer == "trivial":
        return fake_scorer(FakeBackend(batch_token_cap=_BATCH_TOKENS))
    family = build_family(read_checkpoint(demo_folder()), settings)
    assert isinstance(family.readout, PooledReadout)
    return Scorer(ModelInfo("fake", "none", "none"), family, (Ones(family.readout.width),))


if __name__ == "__main__":
    settings, _ = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    raise SystemExit(serve(settings, scorer=scorer(sys.argv[1], settings)))
