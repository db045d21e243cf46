"""What config.json declares of a model is computed as transformers computes it, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reranker_serve.errors import StartupError
from reranker_serve.types import FloatArray
from tests.checkpoints import load_scorer, save_cross_encoder, save_language_model
from tests.families.test_yes_no_parity import ours as ours_of_language_model
from tests.published import MAX_LENGTH, Published

QUERY = "how do plants make food"
DOCUMENTS = ["", "sun light water", "how do plants make food in whale " * 5]


def declare(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def ours(folder: Path, query: str = QUERY, **settings: str) -> FloatArray:
    scorer = load_scorer(folder, **settings)
    items = scorer.family.encode(query, DOCUMENTS, max_length=100, instruction=None).items
    return scorer.family.combine(scorer.backend.forward(items))


def transformers_own(folder: Path, query: str = QUERY) -> FloatArray:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        inputs = [
            tokenizer([query], [text], truncation=True, max_length=100, return_tensors="pt") for text in DOCUMENTS
        ]
        return np.array([model(**one, return_dict=True).logits[0, 0] for one in inputs], dtype=np.float32)


def refusal(folder: Path, **settings: str) -> str:
    with pytest.raises(StartupError) as caught:
        load_scorer(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- positions -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
@pytest.mark.parametrize("padding", [0, 3])
def test_positions_pass_over_what_the_model_takes_for_padding(tmp_path: Path, name: str, padding: int) -> None:
    folder = declare(save_cross_encoder(name, tmp_path), pad_token_id=padding)
    np.testing.assert_allclose(ours(folder), transformers_own(folder), atol=1e-4, rtol=0)


def test_a_trusted_text_may_hold_padding(tmp_path: Path) -> None:
    folder = save_cross_encoder("roberta", tmp_path)
    query = "how <pad> do <pad>"
    np.testing.assert_allclose(
        ours(folder, query, trust_text="true"), transformers_own(folder, query), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("padding", [None, -1, "1"])
def test_positions_that_start_behind_no_padding_are_refused(tmp_path: Path, padding: object) -> None:
    folder = declare(save_cross_encoder("roberta", tmp_path), pad_token_id=padding)
    assert f"config.json: pad_token_id is {padding!r}" in refusal(folder)


def test_positions_are_fewer_behind_a_later_padding(tmp_path: Path) -> None:
    folder = declare(save_cross_encoder("xlm-roberta", tmp_path), pad_token_id=5)
    assert load_scorer(folder, max_length="126").family.max_length_bounds[1] == 126
    assert "has 126 positions" in refusal(folder, max_length="127")
    assert np.isfinite(ours(folder)).all()


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_frequencies_that_depend_on_the_longest_text_of_a_batch_are_refused(
    tmp_path: Path, kind: str, key: str
) -> None:
    declared = {"factor": 4.0, "original_max_position_embeddings": 32, "short_factor": [1.0] * 6}
    declared |= {"rope_type": kind, "long_factor": [3.0] * 6, "rope_theta": 10000.0}
    folder = declare(save_cross_encoder("eurobert", tmp_path), **{key: declared})
    assert f"config.json: {key} " in refusal(folder)


# --- keys that change how a model answers ----------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "deberta-v2"])
@pytest.mark.parametrize("declared", [{"return_dict": False}, {"pad_token_id": -1}, {"chunk_size_feed_forward": 16}])
def test_keys_that_change_no_score(tmp_path: Path, name: str, declared: dict[str, object]) -> None:
    folder = save_cross_encoder(name, tmp_path)
    expected = transformers_own(folder)
    np.testing.assert_allclose(ours(declare(folder, **declared)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mxbai", "qwen3-classifier"])
def test_a_language_model_that_answers_with_a_tuple(tmp_path: Path, name: str) -> None:
    folder = save_language_model(name, tmp_path)
    expected = Published(name, folder).raw(QUERY, DOCUMENTS)
    scorer = load_scorer(declare(folder, return_dict=False), max_length=str(MAX_LENGTH))
    np.testing.assert_allclose(ours_of_language_model(scorer, QUERY, DOCUMENTS), expected, atol=1e-4, rtol=0)


def test_a_model_that_cannot_compute_says_why_in_one_line(tmp_path: Path) -> None:
    folder = declare(save_language_model("mxbai", tmp_path), layer_types=["chunked_attention"] * 3)
    assert "chunked_attention" in refusal(folder, max_length=str(MAX_LENGTH))


# --- who sees whom ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("mxbai", {"is_causal": False}),
        ("llama-classifier", {"is_causal": False}),
        ("gemma", {"use_bidirectional_attention": True}),
    ],
)
def test_a_prompt_for_a_causal_model_is_refused_to_another(
    tmp_path: Path, name: str, declared: dict[str, object]
) -> None:
    folder = declare(save_language_model(name, tmp_path), **declared)
    (key,) = declared
    assert f"config.json: {key} is " in refusal(folder, max_length=str(MAX_LENGTH))


@pytest.mark.parametrize("key", ["is_decoder", "is_causal"])
def test_an_encoder_that_is_to_see_backwards_only_is_refused(tmp_path: Path, key: str) -> None:
    folder = declare(save_cross_encoder("eurobert", tmp_path), **{key: True})
    assert f"config.json: {key} is True" in refusal(folder)


# --- labels of converted language models -----------------------------------------------------


@pytest.mark.parametrize(
    "labels", [("LABEL_0", "LABEL_1"), ("0", "1"), ("no", "yes"), ("False", "True"), ("not relevant", "relevant")]
)
def test_the_second_label_means_yes(tmp_path: Path, labels: tuple[str, str]) -> None:
    folder = save_language_model("mxbai-two-labels", tmp_path)
    declare(folder, id2label=dict(enumerate(labels)))
    scorer = load_scorer(folder, max_length=str(MAX_LENGTH))
    expected = Published("mxbai-two-labels", folder).raw(QUERY, DOCUMENTS)
    np.testing.assert_allclose(ours_of_language_model(scorer, QUERY, DOCUMENTS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("labels", [("yes", "no"), ("relevant", "irrelevant"), ("contradiction", "entailment")])
def test_labels_in_another_order_or_of_another_task_are_refused(tmp_path: Path, labels: tuple[str, str]) -> None:
    folder = declare(save_language_model("mxbai-two-labels", tmp_path), id2label=dict(enumerate(labels)))
    assert f"config.json: id2label names {labels[0]} and {labels[1]}" in refusal(folder, max_length=str(MAX_LENGTH))


def test_two_answers_that_may_both_be_true_are_refused(tmp_path: Path) -> None:
    folder = save_language_model("mxbai-two-labels", tmp_path)
    declare(folder, problem_type="multi_label_classification")
    assert "problem_type is 'multi_label_classification'" in refusal(folder, max_length=str(MAX_LENGTH))
