"""Writes the generated table of `docs/models.md`.

python -m tests.write_models_page
"""

from __future__ import annotations

from pathlib import Path

from reranker_serve.backends.torch.architectures import ARCHITECTURES
from reranker_serve.families.registry import KINDS
from reranker_serve.tools.catalogue import KNOWN_MODELS, KnownModel
from tests.generated import write

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
WRITER = "tests/write_models_page.py"


def generated() -> str:
    lines = [
        "| model | what it is | parameters | languages | longest | licence | attention | compared in |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(model) for model in KNOWN_MODELS),
    ]
    return "\n".join(lines) + "\n"


def _row(model: KnownModel) -> str:
    kind = next(kind for kind in KINDS if kind.name == model.kind)
    attention = "packed" if model.model_type in ARCHITECTURES else "padded"
    licence = model.licence if model.commercial else f"{model.licence}, **not commercial**"
    publisher = model.ids[0].split("/")[0]
    names = ", ".join([model.ids[0], *(name.removeprefix(f"{publisher}/") for name in model.ids[1:])])
    cells = (
        names,
        kind.name,
        model.parameters,
        model.languages,
        f"{model.longest:,}",
        licence,
        attention,
        f"[{Path(model.parity).stem.removeprefix('test_')}](../{model.parity})",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    write(PAGE, WRITER, generated())
