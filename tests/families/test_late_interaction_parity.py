"""MaxSim equals that of sentence-transformers' MultiVectorEncoder, for every layout of a folder that it reads."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import SMALL, byte_bpe, load_scorer, spread_out, unigram, wordpiece
from tests.families.test_cross_encoder_parity import LONG, text

QUERY = "How do plants make food?"
DOCUMENTS = [
    "",
    "a",
    "  leading blanks, and: punctuation!?\n",
    "The stock market fell.",
    "plants make sugar of light",
    text(30, 1),
    text(12, 2),
    LONG,
]
BACKBONES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (wordpiece, {"type_vocab_size": 2}),
    "xlm-roberta": (unigram, {"max_position_embeddings": 132, "type_vocab_size": 1}),
    "modernbert": (byte_bpe, {"local_attention": 128, "global_attn_every_n_layers": 2, "num_hidden_layers": 4}),
}
FIXED = {"strategy": "fixed", "length": 32}
MARKED = {"query": "[Q] ", "document": "[D] "}


def save_backbone(folder: Path, name: str, changes: dict[str, Any] | None = None, markers: Any = ()) -> Path:
    build, known = BACKBONES[name]
    tokenizer = build()
    tokenizer.add_tokens(list(markers), special_tokens=True)
    tokenizer.model_max_length = 128
    config = CONFIG_MAPPING[name](
        **{
            **SMALL,
            **known,
            **(changes or {}),
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        }
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_multi_vector(
    folder: Path,
    name: str = "bert",
    *,
    expansion: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    changes: dict[str, Any] | None = None,
    dense: list[Dense] | None = None,
    skipped: list[str] | None = None,
    normalized: bool = True,
    similarity: str | None = None,
    **transformer: Any,
) -> Path:
    """As sentence-transformers writes a MultiVectorEncoder."""
    markers = [prompt for prompt in (prompts or {}).values() if prompt.startswith("[")]
    bare = save_backbone(folder / "bare", name, changes, markers)
    torch.manual_seed(1)
    projections = dense or [Dense(48, 16, bias=False, activation_function=None, module_input_name="token_embeddings")]
    modules = [
        Transformer(str(bare), query_expansion=expansion, **transformer),
        *projections,
        MultiVectorMask(list(string.punctuation) if skipped is None else skipped),
        *([Normalize(module_input_name="token_embeddings")] if normalized else []),
    ]
    model = MultiVectorEncoder(modules=modules, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def max_sims(scorer: Scorer, query: str, documents: list[str]) -> FloatArray:
    longest = scorer.family.max_length_bounds[1]
    encoded = scorer.family.encode(query, documents, max_length=longest, instruction=None)
    return scorer.family.combine(scorer.backend.forward(encoded.items))


def reference(folder: Path, query: str, documents: list[str]) -> FloatArray:
    model = MultiVectorEncoder(str(folder), device="cpu")
    left = model.encode_query([query], convert_to_numpy=True)
    right = model.encode_document(documents, convert_to_numpy=True, batch_size=3)
    scores: FloatArray = model.similarity(left, right)[0].numpy()
    return scores


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("expansion", [None, FIXED, FIXED | {"attend": True}, {"strategy": "min", "length": 24}])
@pytest.mark.parametrize("query", [QUERY, text(60, 3)])
def test_scores_equal_sentence_transformers(
    name: str, expansion: dict[str, Any] | None, query: str, tmp_path: Path
) -> None:
    folder = save_multi_vector(tmp_path, name, expansion=expansion, prompts=MARKED, document_length=40)
    scorer = load_scorer(folder)
    assert scorer.family.name == "late_interaction"
    assert scorer.backend.attention.startswith("packed")
    expected = reference(folder, query, DOCUMENTS)
    np.testing.assert_allclose(max_sims(scorer, query, DOCUMENTS), expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 1e-1, "equal scores would prove nothing"
