"""llama-nemotron-rerank: Llama's weights read in both directions, against transformers' Llama with a mask of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from reranker_serve.backends.torch.layers import load_layers
from reranker_serve.backends.torch.padded import PaddedForward
from reranker_serve.backends.torch.weights import load_weights
from reranker_serve.checkpoint import read_folder
from reranker_serve.errors import StartupError
from reranker_serve.readouts import HeadReadout
from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import SMALL_DECODER, load_scorer, spread_out
from tests.families.test_yes_no_ids import TEXTS
from tests.families.test_yes_no_parity import TOLERANCE, encode, ours, text
from tests.published import MAX_LENGTH

BEGIN = "<|begin_of_text|>"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama() -> PreTrainedTokenizerFast:
    """Llama 3's: byte level with its way of cutting words, and a token that begins every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "\u010a"), ("\u0120\u010a", "\u0120\u010a"), ("\u0120", "p"), (":", "?"), ("\u0120", "\u0120")]
    merges.append(("\u0120\u0120", "\u010a"))
    vocabulary = {token: index for index, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BEGIN, "<|eot_id|>"])
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|eot_id|>", bos_token=BEGIN, eos_token="<|eot_id|>"
    )


ROPE = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 512,
    "rope_type": "llama3",
}


def save(folder: Path, **published: Any) -> Path:
    """A random Llama in the published layout: its class and model type exist in the repository's code only."""
    tokenizer = llama()
    config = LlamaConfig(
        **SMALL_DECODER,
        vocab_size=len(tokenizer),
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        rope_theta=500000.0,
        rope_scaling=ROPE,
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | {
        "architectures": ["LlamaBidirectionalForSequenceClassification"],
        "model_type": "llama_bidirec",
        "auto_map": {"AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig"},
        **published,
    }
    (folder / "config.json").write_text(json.dumps(values))
    return folder


TOKENIZER = llama()


def published_ids(tokenizer: PreTrainedTokenizerFast, query: str, document: str) -> list[int]:
    ids: list[int] = tokenizer(f"question:{query} \n \n passage:{document}")["input_ids"]
    return ids[:MAX_LENGTH]


def published(folder: Path, query: str, documents: Sequence[str]) -> FloatArray:
    """The class of the repository, written out: no causal mask, states pooled over what is no padding."""
    declared = json.loads((folder / "config.json").read_text())
    config = LlamaConfig(**{name: value for name, value in declared.items() if name not in ("model_type", "auto_map")})
    model = LlamaForSequenceClassification.from_pretrained(folder, config=config, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    inputs = tokenizer.pad(
        {"input_ids": [published_ids(tokenizer, query, document) for document in documents]}, return_tensors="pt"
    )
    seen = inputs["attention_mask"].bool()
    mask = torch.zeros(len(seen), 1, seen.shape[1], seen.shape[1]).masked_fill(~seen[:, None, None, :], -1e30)
    with torch.inference_mode():
        states = model.model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
        counted = [row[here] for row, here in zip(states, seen, strict=True)]
        take = {"avg": lambda row: row.mean(0), "cls": lambda row: row[0], "last": lambda row: row[-1]}
        pooled = torch.stack([take[declared.get("pooling", "avg")](row) for row in counted])
        return np.asarray(model.score(pooled)[:, 0] / declared.get("temperature", 1.0))


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "avg": {"pooling": "avg", "temperature": 0.2},
    "cls": {"pooling": "cls"},
    "last": {"pooling": "last", "temperature": 2},
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Path]:
    folder = save(tmp_path_factory.mktemp("llama"), **CASES[request.param])
    return load_scorer(folder, max_length=str(MAX_LENGTH)), folder


@pytest.mark.parametrize("words", [0, 1, 5, 60])
def test_scores_are_the_published_ones(pair: tuple[Scorer, Path], words: int) -> None:
    scorer, folder = pair
    query = text(words, max(1, words))
    documents = ["", *(text(seed, 9 * seed) for seed in range(9)), text(3, 700)]
    expected = published(folder, query, documents)
    np.testing.assert_allclose(ours(scorer, query, documents), expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected) > 0.02, "equal scores would prove nothing"
    order = np.random.default_rng(1).permutation(len(documents))
    shuffled = ours(scorer, query, [documents[i] for i in order])
    np.testing.assert_allclose(shuffled, expected[order], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(ours(scorer, query, documents[4:5]), expected[4:5], atol=TOLERANCE, rtol=0)


def test_it_runs_packed_without_a_prefix_and_padded_the_same(pair: tuple[Scorer, Path]) -> None:
    scorer, folder = pair
    items = encode(scorer, "bread", ["light", text(1, 40), "a"])
    assert [item.prefix for item in items] == [None] * 3
    assert scorer.backend.attention == "packed per segment"
    model = load_weights(read_folder(folder), scorer.family.readout, torch.float32, "cpu").eval()
    readout = scorer.family.readout
    assert isinstance(readout, HeadReadout)
    padded = PaddedForward(model, readout, 4096, load_layers(folder, readout.layers, torch.float32, "cpu"))
    with torch.inference_mode():
        for some in (items, items[1:2]):
            np.testing.assert_allclose(padded(some).numpy(), scorer.backend.forward(some), atol=TOLERANCE, rtol=0)


def test_the_family_tells_what_it_is(pair: tuple[Scorer, Path]) -> None:
    family = pair[0].family
    assert (family.prompt, family.takes_instruction) == ("llama-nemotron-rerank", False)
    assert family.score_scale == "relevance_score = sigmoid(raw score), 0 to 1; raw score = the logit"


@settings(max_examples=100, deadline=None)
@given(query=TEXTS, document=TEXTS)
def test_the_joined_pieces_are_the_ids_of_the_whole_text(pair: tuple[Scorer, Path], query: str, document: str) -> None:
    scorer, _ = pair
    (item,) = encode(scorer, query, [document])
    assert item.ids.tolist() == published_ids(TOKENIZER, query, document)


@pytest.mark.parametrize(
    ("published", "says"),
    [
        ({"pooling": "colbert"}, r"config\.json: pooling is 'colbert'; supported are avg, cls, last"),
        ({"pooling": ["avg"]}, r"config\.json: pooling is \['avg'\]; supported are avg, cls, last"),
        ({"temperature": 0}, r"config\.json: temperature is 0, not a number above 0"),
        ({"id2label": {"0": "a", "1": "b"}}, r"a reranker has one label, this classifier has 2"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(tmp_path: Path, published: dict[str, Any], says: str) -> None:
    with pytest.raises(StartupError, match=says) as refused:
        load_scorer(save(tmp_path, **published))
    assert "\n" not in str(refused.value)


def test_a_prompt_or_instruction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="RERANKER_PROMPT is set"):
        load_scorer(save(tmp_path), prompt="qwen3-reranker")
