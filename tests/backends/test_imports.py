"""A model is loaded without torch's compiler, scores the same, and leaves the compiler as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import load_scorer, save_cross_encoder, save_language_model

TEXTS = ["plants", "the stock market fell " * 4, "sun light and water"]

_LOAD = """
import json, sys
from pathlib import Path
from reranker_serve.loader import load
from reranker_serve.settings import load_settings

scores = []
for folder in sys.argv[2:]:
    values = {"RERANKER_MODEL_PATH": folder, "RERANKER_USE_FP16": "false", "RERANKER_CPU_THREADS": "1"}
    scorer = load(load_settings(values, env_file=Path("/nonexistent"))[0])
    longest = scorer.family.max_length_bounds[1]
    items = scorer.family.encode("make food", json.loads(sys.argv[1]), max_length=longest, instruction=None).items
    scores.append(scorer.backend.forward(items).tolist())
imported = [name for name in ("torch._dynamo", "torch.distributed.tensor") if name in sys.modules]
import torch
doubled = torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1)).item()
import torch.nn.attention.flex_attention
print(json.dumps([scores, imported, doubled, torch.distributed.is_available()]))
"""


def _run(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_models_score_the_same_and_the_compiler_is_there_afterwards(tmp_path: Path) -> None:
    import torch.distributed

    save = dict.fromkeys(("xlm-roberta", "bert", "modernbert", "deberta-v2"), save_cross_encoder)
    folders = [make(name, tmp_path / name) for name, make in save.items()]
    folders.append(save_language_model("qwen3", tmp_path / "qwen3"))
    printed = _run(_LOAD, json.dumps(TEXTS), *map(str, folders))
    scores, imported, doubled, distributed = json.loads(printed)
    assert imported == []
    assert doubled == 2
    assert distributed is torch.distributed.is_available()
    for folder, found in zip(folders, scores, strict=True):
        scorer = load_scorer(folder)
        longest = scorer.family.max_length_bounds[1]
        items = scorer.family.encode("make food", TEXTS, max_length=longest, instruction=None).items
        np.testing.assert_array_equal(scorer.backend.forward(items), np.array(found, dtype=np.float32))


@pytest.mark.parametrize(
    "asked",
    [
        "import torch._dynamo.config; assert torch._dynamo.config.cache_size_limit",
        "from torch._dynamo import OptimizedModule; assert isinstance(OptimizedModule, type)",
        "from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex as T; T().__enter__",
    ],
)
def test_what_the_stand_in_does_not_have_comes_from_the_compiler(asked: str) -> None:
    _run(
        "from reranker_serve.backends.imports import without_compiler\n"
        f"import torch\nwith without_compiler():\n    {asked}\n"
        "import torch._dynamo, torch._dynamo._trace_wrapped_higher_order_op as masks\n"
        "assert torch._dynamo.__file__ and isinstance(masks.TransformGetItemToIndex, type)\nprint('done')"
    )
