"""What is not served, and the line that says so: a known model with another in its place, or what comes nearest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from reranker_serve.checkpoint import Checkpoint

_OWN_CODE = "exists only as code in the model's repository, and such code is not run here"
_LIST = "docs/models.md lists what is served"
_NEAREST, _ALIKE = 3, 0.75


@dataclass(frozen=True, slots=True)
class Refusal:
    """Models that are known and not served, by their architecture or the repository they were published in."""

    why: str
    instead: str
    architectures: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()

    def means(self, checkpoint: Checkpoint) -> bool:
        names = {checkpoint.config.get("_name_or_path"), checkpoint.folder.name}
        known = {name for repository in self.repositories for name in (repository, repository.replace("/", "_"))}
        return checkpoint.architecture in self.architectures or bool(names & known)


REFUSALS = (
    Refusal(
        _OWN_CODE,
        "jinaai/jina-reranker-v2-base-multilingual or Alibaba-NLP/gte-reranker-modernbert-base",
        ("JinaBertForSequenceClassification",),
    ),
    Refusal(
        _OWN_CODE,
        "BAAI/bge-reranker-v2-m3 or BAAI/bge-reranker-v2-gemma",
        ("LayerWiseMiniCPMForCausalLM", "CostWiseGemmaForCausalLM"),
    ),
    Refusal(
        "has an encoder and a decoder, and such models are not served",
        "mixedbread-ai/mxbai-rerank-base-v2 or Qwen/Qwen3-Reranker-0.6B",
        ("T5ForConditionalGeneration", "MT5ForConditionalGeneration", "T5Gemma2ForConditionalGeneration"),
    ),
    Refusal(
        "reads images, and only texts are served",
        "Qwen/Qwen3-Reranker-0.6B or mixedbread-ai/mxbai-rerank-base-v2",
        (
            "Qwen3VLForConditionalGeneration",
            "Qwen2VLForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
            "JinaVLForRanking",
            "ColPaliForRetrieval",
            "ColQwen2ForRetrieval",
        ),
    ),
    Refusal(
        "writes an order of the documents and has no scores",
        "Qwen/Qwen3-Reranker-0.6B or BAAI/bge-reranker-v2-gemma",
        repositories=("castorini/rank_zephyr_7b_v1_full", "castorini/rank_vicuna_7b_v1"),
    ),
)


def refusal(checkpoint: Checkpoint, served: Sequence[str]) -> str:
    """One line for a checkpoint that is of none of the architectures that are `served`."""
    folder, architecture = checkpoint.folder, checkpoint.architecture
    for known in REFUSALS:
        if known.means(checkpoint):
            return f"{folder}: {architecture} {known.why}: use {known.instead}"
    if not checkpoint.config.get("architectures"):
        return f"{folder / 'config.json'} declares no architecture, so nothing tells how to read it; {_LIST}"
    if checkpoint.config.get("auto_map"):
        return f"{folder}: {architecture} {_OWN_CODE}; {_LIST}"
    near = nearest(architecture, str(checkpoint.config.get("model_type") or ""), served)
    return f"{folder}: architecture {architecture} is not supported; {f'near it are {near}; ' if near else ''}{_LIST}"


def nearest(architecture: str, model_type: str, served: Sequence[str]) -> str:
    """At most three served architectures of a model that is called alike, by its class or by its type."""
    stems = dict.fromkeys(_stem(name) for name in served)
    wanted = (_stem(architecture), model_type.replace("-", "").replace("_", "").lower())
    alike = dict.fromkeys(stem for name in wanted for stem in get_close_matches(name, stems, _NEAREST, _ALIKE))
    return ", ".join([name for stem in alike for name in served if _stem(name) == stem][:_NEAREST])


def _stem(architecture: str) -> str:
    """`XLMRobertaForSequenceClassification` -> `xlmroberta`."""
    return re.split("For[A-Z]|Model$", architecture)[0].lower()
