"""Text is data: no text becomes a control token, and all other text is encoded as published."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reranker_serve.errors import ModelError
from reranker_serve.families.cross_encoder import CrossEncoder, split_budget
from reranker_serve.families.tokenizer import TextEncoder, join
from tests.checkpoints import WORDS, byte_bpe, real_tokenizer, unigram, wordpiece

BUILT = {"wordpiece": wordpiece, "unigram": unigram, "byte_bpe": byte_bpe}
REAL = ["xlm-roberta-base-reconstructed", "bert-base-uncased", "modernbert-base"]

_encoders: dict[str, tuple[TextEncoder, PreTrainedTokenizerFast]] = {}


@pytest.fixture(params=[*BUILT, *REAL])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextEncoder, PreTrainedTokenizerFast]:
    """Ours and the full tokenizer it was made from."""
    name: str = request.param
    if name not in _encoders:
        if name in BUILT:
            folder = tmp_path_factory.mktemp(name)
            BUILT[name]().save_pretrained(folder)
        else:
            folder = real_tokenizer(name)
        _encoders[name] = (TextEncoder(folder), AutoTokenizer.from_pretrained(folder))
    return _encoders[name]


def control_tokens(full: PreTrainedTokenizerFast) -> dict[str, int]:
    return {token.content: index for index, token in full.added_tokens_decoder.items() if token.special}


HOSTILE = [
    "</s>",
    "<s>",
    " </s> ",
    "x</s></s>y",
    "<mask> <pad> <unk>",
    "[SEP] [CLS] [MASK] [PAD]",
    "a[SEP]b",
    "<|endoftext|> <|im_end|>",
    "\u2581</s>",
    "\uff1c/s\uff1e",
]


def test_no_text_becomes_a_control_token(encoder: tuple[TextEncoder, PreTrainedTokenizerFast]) -> None:
    ours, full = encoder
    control = set(control_tokens(full).values()) - {full.unk_token_id}
    texts = [*HOSTILE, *control_tokens(full), *(f"a {token} b{token}" for token in control_tokens(full))]
    for text, ids in zip(texts, ours.encode(texts, 500), strict=True):
        assert not control & set(ids.tolist()), text


def test_the_template_is_the_only_source_of_control_tokens(tmp_path: Path) -> None:
    unigram().save_pretrained(tmp_path)
    family = CrossEncoder(TextEncoder(tmp_path), 64)
    item = family.encode("a </s> b", ["</s> c <s>"], max_length=64, instruction=None).items[0]
    ids = item.ids.tolist()
    assert (ids.count(0), ids.count(2)) == (1, 3)
    assert ids[0] == 0
    assert ids[-1] == 2


def test_a_control_token_is_out_of_reach_where_words_are_split_at_blanks_only(tmp_path: Path) -> None:
    rewrite(tmp_path, normalizer=None, pre_tokenizer={"type": "WhitespaceSplit"})
    full = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    control = {full.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")}
    assert control <= set(full.encode("[PAD] [CLS] [SEP] [MASK]", add_special_tokens=False).ids)
    ids = TextEncoder(tmp_path).encode(["plants [PAD] [CLS] [SEP] [MASK] food"], 500)[0]
    unknown = full.token_to_id("[UNK]")
    assert ids.tolist() == [full.token_to_id("plants"), *[unknown] * 4, full.token_to_id("food")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_ordinary_text_gets_the_published_ids(encoder: tuple[TextEncoder, PreTrainedTokenizerFast], text: str) -> None:
    ours, full = encoder
    text = text.encode("utf-8", "replace").decode()
    if any(token in text for token in control_tokens(full)):
        return
    assert ours.encode([text], 500)[0].tolist() == full(text, add_special_tokens=False)["input_ids"]


def test_a_pair_gets_the_published_ids_and_types(encoder: tuple[TextEncoder, PreTrainedTokenizerFast]) -> None:
    ours, full = encoder
    for query, document in [("how do plants", "make food"), ("a", ""), ("", "x y z")]:
        first, second = ours.encode([query, document], 500)
        item = join(ours.pair, first, second)
        published = full([query], [document])
        assert item.ids.tolist() == published["input_ids"][0]
        types = [0] * item.second_segment + [1] * (len(item) - item.second_segment)
        assert types == published.get("token_type_ids", [types])[0]
        assert join(ours.single, first).ids.tolist() == full(query)["input_ids"]


TEXTS = st.lists(st.sampled_from([*WORDS, "xy.", "\u00e9", "\u4f60\u597d"]), max_size=40).map(" ".join)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=TEXTS, document=TEXTS, max_length=st.integers(8, 40))
def test_a_pair_is_truncated_as_published(
    encoder: tuple[TextEncoder, PreTrainedTokenizerFast], query: str, document: str, max_length: int
) -> None:
    ours, full = encoder
    published = full([query], [document], truncation="longest_first", max_length=max_length)
    encoded = CrossEncoder(ours, 128).encode(query, [document], max_length=max_length, instruction=None)
    assert encoded.items[0].ids.tolist() == published["input_ids"][0]


LIMIT = 100
LONG = {
    "words": " ".join(random.Random(0).choices(WORDS, k=200_000)),
    "blanks, then words": " " * 500_000 + " ".join(WORDS * 20),
    "one word": "ab" * 300_000,
    "no blanks": "\u4f60\u597d" * 100_000,
}


@pytest.mark.parametrize("kind", LONG)
def test_cutting_long_text_first_does_not_change_its_beginning(
    encoder: tuple[TextEncoder, PreTrainedTokenizerFast], kind: str
) -> None:
    ours, full = encoder
    got = ours.encode([LONG[kind]], LIMIT)[0]
    whole = full(LONG[kind], add_special_tokens=False)["input_ids"]
    assert got[:LIMIT].tolist() == whole[:LIMIT]
    assert (len(got) > LIMIT) == (len(whole) > LIMIT)


PIECES = ["plants ", "a", " ", " " * 90, "a" * 30, "b" * 101, "xy. ", "\n", "\u00e9", "e\u0301", "\u4f60\u597d"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(st.sampled_from(PIECES), max_size=60).map("".join), limit=st.integers(1, 8))
@example(text=" " * 90 + "xy. " * 8 + "b" * 101 + " plants" * 50, limit=8)
@example(text=("b" * 101 + " ") * 2 + "b" * 101 + " plants" * 50, limit=8)
def test_where_a_text_is_cut_does_not_change_its_beginning(
    encoder: tuple[TextEncoder, PreTrainedTokenizerFast], text: str, limit: int
) -> None:
    ours, full = encoder
    if isinstance(full.backend_tokenizer.model, tokenizer_models.Unigram):
        # How Unigram splits the beginning of one endless word may depend on where the word ends.
        text = re.sub(r"(\S{100})(?=\S)", r"\1 ", text)
    got = ours.encode([text], limit)[0]
    whole = full(text, add_special_tokens=False)["input_ids"]
    assert got[:limit].tolist() == whole[:limit]
    assert (len(got) > limit) == (len(whole) > limit)


@given(query=st.integers(0, 60), document=st.integers(0, 60), budget=st.integers(2, 50))
def test_split_budget_is_longest_first(query: int, document: int, budget: int) -> None:
    tokenizer = Tokenizer(tokenizer_models.WordLevel({"q": 0, "d": 1}, unk_token="q"))
    tokenizer.pre_tokenizer = None
    tokenizer.enable_truncation(budget, strategy="longest_first")
    encoding = tokenizer.encode(["q"] * query, ["d"] * document, is_pretokenized=True)
    expected = (encoding.sequence_ids.count(0), encoding.sequence_ids.count(1))
    assert split_budget(query, document, budget) == expected


@pytest.mark.parametrize(
    ("query", "document", "kept"),
    [(3, 4, (3, 4)), (100, 1, (19, 1)), (1, 100, (1, 19)), (100, 100, (10, 10)), (10, 10, (10, 10)), (0, 100, (0, 20))],
)
def test_the_query_keeps_at_most_half_unless_the_document_leaves_room(
    query: int, document: int, kept: tuple[int, int]
) -> None:
    assert split_budget(query, document, 20) == kept


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ModelError, match="tokenizer") as caught:
        TextEncoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_template_joins_the_bare_texts(tmp_path: Path) -> None:
    rewrite(tmp_path, post_processor=None)
    ours = TextEncoder(tmp_path)
    assert (ours.pair.overhead, ours.single.overhead) == (0, 0)
    first, second = ours.encode(["plants", "food"], 5)
    assert join(ours.pair, first, second).ids.tolist() == [*first, *second]


def test_a_tokenizer_without_a_vocabulary_is_one_line(tmp_path: Path) -> None:
    rewrite(tmp_path, model={"type": "BPE", "vocab": {}, "merges": []}, post_processor=None, added_tokens=[])
    with pytest.raises(ModelError, match="gives no tokens") as caught:
        TextEncoder(tmp_path)
    assert "\n" not in str(caught.value)


def rewrite(folder: Path, **changes: object) -> None:
    """Save a tokenizer with parts of its tokenizer.json exchanged."""
    wordpiece().save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_ids_are_int32(tmp_path: Path) -> None:
    wordpiece().save_pretrained(tmp_path)
    assert TextEncoder(tmp_path).encode(["plants"], 5)[0].dtype == np.int32
