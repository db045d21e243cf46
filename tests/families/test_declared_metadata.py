"""What sentence-transformers' own files declare of a classifier or a language model is honoured, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from reranker_serve.errors import StartupError
from reranker_serve.types import FloatArray
from tests.checkpoints import load_scorer, save_cross_encoder
from tests.families.test_bi_encoder_parity import save_embedding_model
from tests.families.test_logit_score import QWEN3, save_logit_score
from tests.families.test_yes_no_parity import ours as ours_of_language_model
from tests.published import MAX_LENGTH

QUERY = "How DO plants make food"
DOCUMENTS = ["", "sun light water", "how do plants make food in whale " * 30]
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
CLASSIFIER = {
    "transformer_task": "sequence-classification",
    "module_output_name": "scores",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
}


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def declare(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    write(path, (json.loads(path.read_text()) if path.exists() else {}) | values)


def with_modules(name: str, folder: Path, **transformer: object) -> Path:
    """A classifier as sentence-transformers 5.4 and later saves it."""
    save_cross_encoder(name, folder)
    write(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER}])
    write(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    write(folder / "sentence_bert_config.json", CLASSIFIER | transformer)
    return folder


def predicted(folder: Path) -> FloatArray:
    model = CrossEncoder(str(folder), device="cpu")
    pairs = [(QUERY, document) for document in DOCUMENTS]
    return np.asarray(model.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=1))


def ours(folder: Path) -> FloatArray:
    scorer = load_scorer(folder)
    most = scorer.family.max_length_bounds[1]
    items = scorer.family.encode(QUERY, DOCUMENTS, max_length=most, instruction=None).items
    return scorer.family.combine(scorer.backend.forward(items))


def require_predicted(folder: Path) -> None:
    np.testing.assert_allclose(ours(folder), predicted(folder), atol=1e-4, rtol=0)


def refusal(folder: Path) -> str:
    with pytest.raises(StartupError) as caught:
        load_scorer(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- classifiers -----------------------------------------------------------------------------


def test_the_length_that_the_metadata_of_a_classifier_declares(tmp_path: Path) -> None:
    folder = with_modules("bert", tmp_path, max_seq_length=20)
    assert load_scorer(folder).family.max_length_bounds[1] == 20
    require_predicted(folder)


def test_metadata_without_modules_says_nothing(tmp_path: Path) -> None:
    folder = with_modules("roberta", tmp_path, max_seq_length=20, do_lower_case=True)
    prompts = {"prompts": {"query": "Food: "}, "default_prompt_name": "query"}
    declare(folder, "config_sentence_transformers.json", **prompts)
    require_predicted(folder)
    with_it = ours(folder)
    (folder / "modules.json").unlink()
    require_predicted(folder)
    assert np.abs(ours(folder) - with_it).max() > 1e-2


def test_token_types_that_a_tokenizer_does_not_make(tmp_path: Path) -> None:
    folder = with_modules("bert", tmp_path)
    typed = ours(folder)
    declare(folder, "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    require_predicted(folder)
    assert np.abs(ours(folder) - typed).max() > 1e-2


@pytest.mark.parametrize(
    ("declared", "key"),
    [
        ({"processing_kwargs": {"text": {"max_length": 20}}}, "processing_kwargs"),
        ({"processor_kwargs": {"do_lower_case": False}}, "processor_kwargs"),
        ({"tokenizer_args": {"model_max_length": 20}}, "tokenizer_args"),
        ({"config_args": {"num_hidden_layers": 1}}, "config_args"),
        ({"config_kwargs": {"hidden_act": "relu"}}, "config_kwargs"),
        ({"model_args": {"num_labels": 1}}, "model_args"),
        ({"tokenizer_name_or_path": "another"}, "tokenizer_name_or_path"),
        ({"query_length": 8}, "query_length"),
        ({"max_seq_length": "20"}, "max_seq_length"),
        ({"transformer_task": "feature-extraction"}, "transformer_task"),
    ],
)
def test_what_changes_the_texts_or_the_model_is_refused(tmp_path: Path, declared: dict[str, Any], key: str) -> None:
    folder = with_modules("bert", tmp_path, **declared)
    assert f"sentence_bert_config.json: {key} " in refusal(folder)


def test_what_changes_nothing_is_accepted(tmp_path: Path) -> None:
    harmless = {
        "model_args": {"torch_dtype": "float32", "attn_implementation": "sdpa"},
        "processing_kwargs": {"chat_template": {"add_generation_prompt": True}, "text": {}},
        "config_args": {},
        "query_length": None,
        "unpad_inputs": False,
    }
    require_predicted(with_modules("bert", tmp_path, **harmless))


def test_an_embedding_models_metadata_is_looked_at_as_well(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "bert", "mean", True, None)
    declare(folder, "sentence_bert_config.json", config_args={"num_hidden_layers": 1})
    assert "sentence_bert_config.json: config_args " in refusal(folder)


def test_modules_behind_a_classifier_are_refused(tmp_path: Path) -> None:
    folder = with_modules("bert", tmp_path)
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    rows = json.loads((folder / "modules.json").read_text())
    write(folder / "modules.json", [*rows, {"idx": 1, "name": "1", "path": "1_Pooling", "type": pooling}])
    assert "modules.json: " in refusal(folder)
    declare(folder, "config_sentence_transformers.json", model_type="SentenceTransformer")
    require_predicted(folder)  # which looks at the classifier alone


@pytest.mark.parametrize(
    ("prompts", "chosen"), [({"query": "Food: "}, "other"), ({"query": 5}, "query"), ({"5": "Food: "}, 5)]
)
def test_a_default_prompt_that_is_none(tmp_path: Path, prompts: dict[str, Any], chosen: object) -> None:
    folder = with_modules("bert", tmp_path)
    declare(folder, "config_sentence_transformers.json", prompts=prompts, default_prompt_name=chosen)
    assert "config_sentence_transformers.json: default_prompt_name is " in refusal(folder)


# --- language models -------------------------------------------------------------------------

OTHERS = {
    "no thoughts": QWEN3.replace("<think>\\n\\n</think>\\n\\n", ""),
    "another instruction": QWEN3.replace("Given a web search query", "Given a question"),
    "a word more": QWEN3.replace("<Document>: '", "<Document>: passage '"),
    "the day": QWEN3.replace("<Document>: '", "<Document>: ' + strftime_now('%Y-%m-%d') + '"),
    "not a template": QWEN3 + "{% if %}",
    "other roles": QWEN3.replace("== 'query'", "== 'user'"),
}


@pytest.mark.parametrize("template", OTHERS.values(), ids=OTHERS)
def test_a_chat_template_that_is_another_prompt_is_refused(tmp_path: Path, template: str) -> None:
    folder = save_logit_score(tmp_path / "model", QWEN3, "yes", "no")
    (folder / "chat_template.jinja").write_text(template)
    line = refusal(folder)
    assert "chat_template" in line
    assert "RERANKER_PROMPT=qwen3-reranker" in line
    load_scorer(folder, prompt="qwen3-reranker", max_length=str(MAX_LENGTH))


def test_a_publishers_own_repository_has_the_published_prompt_whatever_its_template(tmp_path: Path) -> None:
    folder = save_logit_score(tmp_path / "Qwen_Qwen3-Reranker-0.6B", QWEN3, "yes", "no")
    (folder / "chat_template.jinja").write_text(OTHERS["other roles"])
    assert load_scorer(folder, max_length=str(MAX_LENGTH)).family.prompt == "qwen3-reranker"


def test_an_instruction_of_the_folder_may_hold_control_tokens(tmp_path: Path) -> None:
    told = {"prompts": {"query": "Find <|im_end|> it"}, "default_prompt_name": "query"}
    folder = save_logit_score(tmp_path / "model", QWEN3, "yes", "no", **told)
    scorer = load_scorer(folder, max_length=str(MAX_LENGTH))
    got = ours_of_language_model(scorer, QUERY, DOCUMENTS)
    np.testing.assert_allclose(got, predicted(folder), atol=1e-4, rtol=0)


def test_the_length_that_the_metadata_of_a_language_model_declares(tmp_path: Path) -> None:
    folder = save_logit_score(tmp_path / "model", QWEN3, "yes", "no")
    declare(folder, "sentence_bert_config.json", max_seq_length=500)
    assert load_scorer(folder).family.max_length_bounds[1] == 500
    assert load_scorer(folder, max_length="900").family.max_length_bounds[1] == 900
