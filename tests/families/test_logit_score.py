"""Language models as sentence-transformers saves its cross-encoders: LogitScore, and a head behind the last token.

The reference is its own `predict`, by the folder's chat template.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules import Dense, LogitScore, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import AutoModelForCausalLM

from reranker_serve.errors import StartupError
from reranker_serve.families.prompts import CTXL_V2, QWEN3_RERANKER
from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import load_scorer, save_language_model
from tests.families.test_yes_no_parity import TOLERANCE, encode, ours, text
from tests.machine import needs_bfloat16
from tests.published import MAX_LENGTH

TOLD = "Find what is asked for"
ROLES = """{%- set ns = namespace(system='', query='', document='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{%- set ns.system = message.content -%}
{%- elif message.role == 'query' -%}{%- set ns.query = message.content -%}
{%- elif message.role == 'document' -%}{%- set ns.document = message.content -%}
{%- endif -%}
{%- endfor -%}
"""
SYSTEM = QWEN3_RERANKER.before[0].removeprefix("<|im_start|>system\n").removesuffix("<|im_end|>\n<|im_start|>user\n")
QWEN3 = (
    ROLES
    + "{{- '<|im_start|>system\\n"
    + SYSTEM
    + "<|im_end|>\\n<|im_start|>user\\n<Instruct>: ' + (ns.system or '"
    + str(QWEN3_RERANKER.instruction)
    + "') + '\\n<Query>: ' + ns.query + '\\n<Document>: ' + ns.document"
    + " + '<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' -}}"
)
CTXL = (
    ROLES
    + "{{- '"
    + str(CTXL_V2.sign)
    + "\\n<Document> ' + ns.document + '\\n<Query> ' + ns.query + ((' ' + ns.system) if ns.system else '') + ' ??' -}}"
)
Template = str


def body(folder: Path, template: Template, name: str = "qwen3") -> Path:
    """A language model that nothing tells of but its template, of more rows than a reranker's."""
    save_language_model(name, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["_name_or_path"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def save_logit_score(folder: Path, template: Template, true: str, false: str | None, **metadata: Any) -> Path:
    transformer = Transformer(str(body(folder.with_name("body"), template)), transformer_task="text-generation")
    ids = [None if token is None else transformer.tokenizer.convert_tokens_to_ids(token) for token in (true, false)]
    CrossEncoder(modules=[transformer, LogitScore(*ids)], device="cpu", **metadata).save_pretrained(str(folder))
    return folder


def save_head(folder: Path, template: Template, pooling: str = "lasttoken") -> Path:
    transformer = Transformer(str(body(folder.with_name("body"), template)), transformer_task="feature-extraction")
    torch.manual_seed(2)
    dense = Dense(64, 1, bias=False, activation_function=nn.Identity(), module_output_name="scores")
    CrossEncoder(modules=[transformer, Pooling(64, pooling), dense], device="cpu").save_pretrained(str(folder))
    return folder


def predicted(folder: Path, query: str, documents: Sequence[str]) -> FloatArray:
    model = CrossEncoder(str(folder), device="cpu")
    pairs = [(query, document) for document in documents]
    return np.asarray(model.predict(pairs, activation_fn=nn.Identity(), batch_size=3))


LOGIT_SCORES: dict[str, tuple[Template, str, str | None, dict[str, Any], str]] = {
    "fine-tuned": (QWEN3, "yes", "no", {}, "qwen3-reranker"),
    "instructed": (QWEN3, "yes", "no", {"prompts": {"query": TOLD}, "default_prompt_name": "query"}, "qwen3-reranker"),
    "other answers": (QWEN3, "1", "0", {}, "qwen3-reranker"),
    "ctxl": (CTXL, "!", None, {}, "ctxl-rerank-v2"),
    "ctxl instructed": (CTXL, "!", None, {"prompts": {"q": TOLD}, "default_prompt_name": "q"}, "ctxl-rerank-v2"),
}


@needs_bfloat16
def test_a_head_takes_the_states_of_a_model_in_half_precision(tmp_path: Path) -> None:
    assert load_scorer(save_head(tmp_path / "model", QWEN3), use_fp16="true").backend.dtype == "bfloat16"


@pytest.fixture(scope="module", params=[*LOGIT_SCORES, "head"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Path, str]:
    folder = tmp_path_factory.mktemp("logits") / "model"
    if request.param == "head":
        return load_scorer(save_head(folder, QWEN3), max_length=str(MAX_LENGTH)), folder, "qwen3-reranker"
    template, true, false, metadata, prompt = LOGIT_SCORES[request.param]
    folder = save_logit_score(folder, template, true, false, **metadata)
    return load_scorer(folder, max_length=str(MAX_LENGTH)), folder, prompt


@pytest.mark.parametrize("words", [0, 1, 5, 60])
def test_scores_are_those_of_predict(pair: tuple[Scorer, Path, str], words: int) -> None:
    scorer, folder, prompt = pair
    assert scorer.family.prompt == prompt
    query, documents = text(words, max(1, words)), ["", *(text(seed, 7 * seed) for seed in range(9))]
    expected = predicted(folder, query, documents)
    np.testing.assert_allclose(ours(scorer, query, documents), expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected) > 0.02, "equal scores would prove nothing"
    order = np.random.default_rng(1).permutation(len(documents))
    shuffled = ours(scorer, query, [documents[i] for i in order])
    np.testing.assert_allclose(shuffled, expected[order], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(ours(scorer, query, documents[4:5]), expected[4:5], atol=TOLERANCE, rtol=0)


def test_it_runs_packed_with_what_all_documents_begin_with_once(pair: tuple[Scorer, Path, str]) -> None:
    scorer, _, _ = pair
    first, second = encode(scorer, "bread", ["light", "a whale"])
    assert first.prefix is second.prefix is not None
    assert scorer.backend.attention == "packed per segment"


def test_a_document_before_the_query_shares_what_stands_before_it(tmp_path: Path) -> None:
    scorer = load_scorer(save_language_model("ctxl", tmp_path), max_length=str(MAX_LENGTH))
    (one,), (other,) = encode(scorer, "bread", ["light"]), encode(scorer, "water", ["light"])
    assert one.prefix is not None
    assert other.prefix is not None
    assert one.prefix.tolist() == other.prefix.tolist()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_logit_score(tmp_path_factory.mktemp("saved") / "model", QWEN3, "yes", "no")


def refusal(folder: Path, **settings: str) -> str:
    with pytest.raises(StartupError) as caught:
        load_scorer(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_prompt_that_is_not_known_is_refused_with_the_known_ones(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }} ? {{ messages[1].content }}")
    assert "set RERANKER_PROMPT to one of qwen3-reranker" in refusal(folder)
    scorer = load_scorer(folder, prompt="qwen3-reranker", max_length=str(MAX_LENGTH))
    np.testing.assert_allclose(
        ours(scorer, "bread", ["a", "light water"]), predicted(saved, "bread", ["a", "light water"]), atol=TOLERANCE
    )


@pytest.mark.parametrize("answer", [-1, 10**6, "yes", None, True])
def test_an_answer_that_is_no_token_is_refused(saved: Path, tmp_path: Path, answer: object) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "1_LogitScore/config.json").write_text(json.dumps({"true_token_id": answer, "false_token_id": 3}))
    assert f"1_LogitScore/config.json: true_token_id is {answer!r}, which is no token of this model" in refusal(folder)


def test_answers_of_its_own_are_told(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    assert load_scorer(folder, max_length="1024").family.score_scale.endswith("logit 'yes' - logit 'no'")
    (folder / "1_LogitScore/config.json").write_text(json.dumps({"true_token_id": 7, "false_token_id": None}))
    assert load_scorer(folder, max_length="1024").family.score_scale.endswith("raw score = logit of token 7")


def test_a_head_behind_another_token_is_refused(tmp_path: Path) -> None:
    assert "pooling mean of a language model is not supported" in refusal(save_head(tmp_path / "m", QWEN3, "mean"))


def test_a_language_model_as_transformers_saves_it_is_not_taken_for_a_reranker(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(body(tmp_path / "body", "{{ messages }}"))
    model.save_pretrained(tmp_path / "body")
    assert "nothing in its files tells which prompt" in refusal(tmp_path / "body")
