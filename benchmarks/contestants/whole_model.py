"""A classifier with its head, wherever the folder keeps it, for runtimes that take one graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def has_modules(folder: Path) -> bool:
    """Whether the head is in modules of its own, which transformers' classes do not read."""
    return (folder / "modules.json").exists()


def whole_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Model and example inputs, by name and in the order of its arguments: [batch, length] each -> logits [batch, 1].

    In float32. Token types are among the inputs where the tokenizer tells the texts of a pair apart by them.
    """
    import torch
    from transformers import AutoTokenizer

    asked = AutoTokenizer.from_pretrained(folder).model_input_names
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in asked]
    score = _modules(folder) if has_modules(folder) else _classifier(folder)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = score

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            given = (input_ids, attention_mask, token_type_ids)
            return self.score(dict(zip(names, given, strict=False)))

    ids = torch.randint(5, 100, (3, 17))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    examples = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return Logits().eval(), {name: examples[name] for name in names}


def _classifier(folder: Path) -> nn.Module:
    import torch
    from transformers import AutoModelForSequenceClassification

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)

        def forward(self, inputs: dict[str, Any]) -> Any:
            return self.model(**inputs).logits

    return Classifier()


def _modules(folder: Path) -> nn.Module:
    import torch
    from sentence_transformers import CrossEncoder

    class Modules(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoder = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
            self.parts = torch.nn.ModuleList(encoder.children())

        def forward(self, inputs: dict[str, Any]) -> Any:
            features = dict(inputs)
            for part in self.parts:
                features = part(features)
            return features["scores"]

    return Modules()
