"""Language-model rerankers against the published computation, written out with plain transformers."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from reranker_serve.backends.torch.architectures import ARCHITECTURES
from reranker_serve.backends.torch.padded import PaddedLanguageModel
from reranker_serve.types import EncodedItem, Scorer
from tests.checkpoints import LANGUAGE_MODELS, WORDS, load_scorer, real_tokenizer, save_language_model
from tests.published import MAX_LENGTH, Published

TOLERANCE = 1e-4


def ours(scorer: Scorer, query: str, documents: Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
    items = encode(scorer, query, documents, instruction)
    return scorer.family.combine(scorer.backend.forward(items))


def encode(
    scorer: Scorer, query: str, documents: Sequence[str], instruction: str | None = None
) -> tuple[EncodedItem, ...]:
    return scorer.family.encode(query, documents, max_length=MAX_LENGTH, instruction=instruction).items


@pytest.fixture(scope="module", params=[*LANGUAGE_MODELS, "qwen3 with the real tokenizer"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Published]:
    """The same random checkpoint as this server loads it, and as the publisher computes it."""
    name, _, real = request.param.partition(" with ")
    tokenizer = AutoTokenizer.from_pretrained(real_tokenizer("qwen3")) if real else None
    folder = save_language_model(name, tmp_path_factory.mktemp("model"), tokenizer)
    return load_scorer(folder, max_length=str(MAX_LENGTH)), Published(name, folder)


def text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def test_packing_is_used(pair: tuple[Scorer, Published]) -> None:
    assert pair[0].backend.attention == "packed per segment"


@pytest.mark.parametrize("words", [0, 1, 2, 5, 30, 90])
@pytest.mark.parametrize("documents", [1, 2, 64])
def test_scores_are_the_published_ones(pair: tuple[Scorer, Published], words: int, documents: int) -> None:
    scorer, published = pair
    query = text(words, max(1, words))
    texts = [text(seed, seed % (words + 1)) for seed in range(documents)]
    np.testing.assert_allclose(ours(scorer, query, texts), published.raw(query, texts), atol=TOLERANCE, rtol=0)


def test_a_document_at_and_over_the_limit(pair: tuple[Scorer, Published]) -> None:
    scorer, published = pair
    texts = [text(1, 2000), text(2, 200), "a"]
    items = encode(scorer, "how do plants make food", texts)
    longest = items[0]
    assert longest.prefix is not None
    assert len(longest) + len(longest.prefix) == MAX_LENGTH
    expected = published.raw("how do plants make food", texts)
    np.testing.assert_allclose(ours(scorer, "how do plants make food", texts), expected, atol=TOLERANCE, rtol=0)


def test_an_instruction_is_the_published_one(pair: tuple[Scorer, Published]) -> None:
    scorer, published = pair
    if not scorer.family.takes_instruction:
        pytest.skip("its prompt has no place for an instruction")
    texts = [text(1, 20), text(2, 3)]
    told = ours(scorer, "bread", texts, "Find recipes.")
    np.testing.assert_allclose(told, published.raw("bread", texts, "Find recipes."), atol=TOLERANCE, rtol=0)
    assert np.abs(told - ours(scorer, "bread", texts)).max() > 100 * TOLERANCE


def test_a_score_does_not_depend_on_company_or_place(pair: tuple[Scorer, Published]) -> None:
    """Alone, with 63 others, in another order, and among other requests with prefixes of their own."""
    scorer, _ = pair
    texts = [text(seed, seed) for seed in range(64)]
    together = ours(scorer, "how do plants make food", texts)
    alone = np.concatenate([ours(scorer, "how do plants make food", [one]) for one in texts[::9]])
    np.testing.assert_allclose(together[::9], alone, atol=TOLERANCE, rtol=0)
    backwards = ours(scorer, "how do plants make food", texts[::-1])[::-1]
    np.testing.assert_allclose(together, backwards, atol=TOLERANCE, rtol=0)
    queries = [text(100 + number, 1 + 20 * number) for number in range(4)]
    requests = [encode(scorer, query, texts[:8]) for query in queries]
    mixed = [request[place] for place in range(8) for request in requests]
    rows = scorer.family.combine(scorer.backend.forward(mixed)).reshape(8, 4).T
    for query, row in zip(queries, rows, strict=True):
        np.testing.assert_allclose(row, ours(scorer, query, texts[:8]), atol=TOLERANCE, rtol=0)


def test_the_padded_path_gives_the_same_scores(pair: tuple[Scorer, Published]) -> None:
    scorer, published = pair
    architecture = ARCHITECTURES[published.model.config.model_type]
    padded = PaddedLanguageModel(published.model, architecture, scorer.family.readout, bucket_tokens=256)
    texts = [text(seed, seed) for seed in range(40)]
    items = [*encode(scorer, "bread", texts), *encode(scorer, "how do plants make food", texts[:3])]
    items.append(EncodedItem(items[5].ids, len(items[5].ids)))
    with torch.inference_mode():
        np.testing.assert_allclose(padded(items).numpy(), scorer.backend.forward(items), atol=TOLERANCE, rtol=0)
