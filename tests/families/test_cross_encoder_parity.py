"""Logits equal those of sentence-transformers and of plain transformers, whatever the batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reranker_serve.backends.torch.padded import PaddedForward
from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import CROSS_ENCODERS, PACKED, WORDS, load_scorer, real_tokenizer, save_cross_encoder

TOLERANCE = 1e-4
SPREAD = 0.02
LIMIT = 128


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


QUERY = "how do plants make food"
DOCUMENTS = [
    "",
    "a",
    "  ",
    "The stock market fell, 12.5% in a day!",
    *(text(words, seed) for seed, words in enumerate([1, 2, 3, 5, 8, 13, 21, 34, 55, 90])),
    "dejà vu \u4f60\u597d \U0001f600 tab\there",
]
LONG = text(400, 99)


@pytest.fixture(scope="module", params=CROSS_ENCODERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Scorer]:
    name: str = request.param
    folder = save_cross_encoder(name, tmp_path_factory.mktemp(name))
    return name, folder, load_scorer(folder)


def raw_scores(scorer: Scorer, query: str, documents: Sequence[str], max_length: int = LIMIT) -> FloatArray:
    encoded = scorer.family.encode(query, documents, max_length=max_length, instruction=None)
    return scorer.family.combine(scorer.backend.forward(encoded.items))


def plain_transformers(folder: Path, query: str, documents: Sequence[str], max_length: int = LIMIT) -> FloatArray:
    """The published computation, one pair at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = []
    with torch.inference_mode():
        for document in documents:
            # Lists: given two strings, the second one empty, transformers encodes no pair at all.
            inputs = tokenizer(
                [query], [document], truncation="longest_first", max_length=max_length, return_tensors="pt"
            )
            if "token_type_ids" in inputs and getattr(model.config, "type_vocab_size", 2) < 2:
                del inputs["token_type_ids"]
            logits.append(model(**inputs).logits[0, 0].item())
    return np.array(logits, dtype=np.float32)


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        pytest.param(QUERY, DOCUMENTS, id="ordinary"),
        pytest.param(QUERY, [LONG, *DOCUMENTS[:4]], id="document too long"),
        pytest.param(LONG, DOCUMENTS, id="query too long"),
        pytest.param(LONG, [LONG, text(60, 3), text(30, 4)], id="both too long"),
    ],
)
def test_logits_equal_plain_transformers(
    checkpoint: tuple[str, Path, Scorer], query: str, documents: list[str]
) -> None:
    _, folder, scorer = checkpoint
    expected = plain_transformers(folder, query, documents)
    got = raw_scores(scorer, query, documents)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected) > SPREAD, "equal logits would prove nothing"


def test_logits_equal_sentence_transformers(checkpoint: tuple[str, Path, Scorer]) -> None:
    _name, folder, scorer = checkpoint
    documents = [*DOCUMENTS, LONG]
    reference = CrossEncoder(str(folder), device="cpu", max_length=LIMIT)
    expected = reference.predict(
        [(QUERY, document) for document in documents], activation_fn=torch.nn.Identity(), batch_size=4
    )
    np.testing.assert_allclose(raw_scores(scorer, QUERY, documents), expected, atol=TOLERANCE, rtol=0)


def test_attention_is_packed_where_the_architecture_allows(checkpoint: tuple[str, Path, Scorer]) -> None:
    name, _, scorer = checkpoint
    assert scorer.backend.attention.startswith("packed" if name in PACKED else "padded")


def test_a_score_does_not_depend_on_its_batch_or_place(checkpoint: tuple[str, Path, Scorer]) -> None:
    _, _, scorer = checkpoint
    alone = np.concatenate([raw_scores(scorer, QUERY, [document]) for document in DOCUMENTS])
    together = raw_scores(scorer, QUERY, DOCUMENTS)
    order = np.random.default_rng(1).permutation(len(DOCUMENTS))
    shuffled = raw_scores(scorer, QUERY, [DOCUMENTS[i] for i in order])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)
    np.testing.assert_allclose(shuffled, alone[order], atol=1e-5, rtol=0)


def test_packed_equals_padded(checkpoint: tuple[str, Path, Scorer]) -> None:
    name, folder, scorer = checkpoint
    if name not in PACKED:
        pytest.skip("runs padded anyway")
    items = scorer.family.encode(QUERY, DOCUMENTS, max_length=LIMIT, instruction=None).items
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        padded = PaddedForward(model, scorer.family.readout, 4096)(items).numpy()
    np.testing.assert_allclose(scorer.backend.forward(items), padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_length", [8, 9, 20, 127])
def test_a_request_may_narrow_the_limit(checkpoint: tuple[str, Path, Scorer], max_length: int) -> None:
    _, folder, scorer = checkpoint
    documents = [text(40, 5), "a", text(3, 6)]
    expected = plain_transformers(folder, QUERY, documents, max_length)
    np.testing.assert_allclose(raw_scores(scorer, QUERY, documents, max_length), expected, atol=TOLERANCE, rtol=0)


def test_the_least_limit_keeps_a_token_of_each(checkpoint: tuple[str, Path, Scorer]) -> None:
    _, folder, scorer = checkpoint
    least = scorer.family.max_length_bounds[0]
    documents = [text(40, 5), "plants"]
    expected = plain_transformers(folder, QUERY, documents, least)
    np.testing.assert_allclose(raw_scores(scorer, QUERY, documents, least), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [
        ("xlm-roberta", "xlm-roberta-base-reconstructed"),
        ("bert", "bert-base-uncased"),
        ("modernbert-mean", "modernbert-base"),
    ],
)
def test_logits_are_the_same_with_a_real_tokenizer(name: str, tokenizer: str, tmp_path: Path) -> None:
    folder = save_cross_encoder(name, tmp_path, AutoTokenizer.from_pretrained(real_tokenizer(tokenizer)))
    scorer = load_scorer(folder)
    # Without the texts that spell control tokens: there we differ on purpose.
    documents = [*DOCUMENTS, LONG, "  Wie  machen Pflanzen\n\tNahrung?", "\u0623\u0646\u0627 \u092a\u094c\u0927\u0947"]
    expected = plain_transformers(folder, QUERY, documents)
    np.testing.assert_allclose(raw_scores(scorer, QUERY, documents), expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected) > SPREAD, "equal logits would prove nothing"


def test_truncation_is_told_per_document(checkpoint: tuple[str, Path, Scorer]) -> None:
    _, _, scorer = checkpoint
    encoded = scorer.family.encode(QUERY, [LONG, "a", ""], max_length=LIMIT, instruction=None)
    assert encoded.truncated == (True, False, False)
    assert len(encoded.items[0]) == LIMIT


@pytest.mark.parametrize("name", ["bert", "modernbert-mean", "eurobert", "deberta-v2"])
@pytest.mark.parametrize(
    ("labels", "relevant"), [({0: "irrelevant", 1: "relevant"}, 1), ({0: "Relevant", 1: "not_relevant"}, 0)]
)
def test_of_two_labels_relevance_is_the_probability_of_the_relevant_one(
    name: str, labels: dict[int, str], relevant: int, tmp_path: Path
) -> None:
    folder = save_cross_encoder(name, tmp_path, id2label=labels)
    scorer = load_scorer(folder)
    reference = CrossEncoder(str(folder), device="cpu", max_length=LIMIT)
    documents = [*DOCUMENTS, LONG]
    expected = reference.predict(
        [(QUERY, document) for document in documents], activation_fn=torch.nn.Identity(), convert_to_tensor=True
    ).cpu()
    assert expected.shape == (len(documents), 2)
    raw = raw_scores(scorer, QUERY, documents)
    np.testing.assert_allclose(raw, expected[:, relevant] - expected[:, 1 - relevant], atol=TOLERANCE, rtol=0)
    probability = torch.softmax(expected, dim=1)[:, relevant]
    np.testing.assert_allclose(scorer.family.activate(raw), probability, atol=TOLERANCE, rtol=0)
    assert np.ptp(raw) > SPREAD, "equal scores would prove nothing"
    assert "difference" in scorer.family.score_scale
