"""What a checkpoint's files declare about text is honoured as transformers honours it, or refused."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reranker_serve.errors import ModelError
from reranker_serve.families.prompts import QWEN3_RERANKER
from reranker_serve.families.tokenizer import TextEncoder
from reranker_serve.families.yes_no import YesNo
from tests.checkpoints import byte_bpe, load_scorer, qwen, save_cross_encoder, unigram, wordpiece
from tests.families.test_bi_encoder_parity import cosines, reference, save_embedding_model

BUILT = {"wordpiece": wordpiece, "unigram": unigram, "byte_bpe": byte_bpe}
LIMIT = 500


def published(folder: Path, text: str) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    return ids


def ours(folder: Path, text: str, **options: bool) -> list[int]:
    ids: list[int] = TextEncoder(folder, **options).encode([text], LIMIT)[0].tolist()
    return ids


def declare(folder: Path, **values: object) -> Path:
    """Set keys of a folder's tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        TextEncoder(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


# --- words added to the vocabulary -----------------------------------------------------------


@pytest.fixture(params=BUILT)
def build(request: pytest.FixtureRequest) -> Callable[[], PreTrainedTokenizerFast]:
    return BUILT[request.param]


WORDY = "Of photosynthesis, chlorophyll and (photosynthesis)chlorophylls PHOTOSYNTHESIS. Mail [EMAIL] to <user>!"


def test_words_added_to_the_vocabulary_are_words(build: Callable[[], PreTrainedTokenizerFast], tmp_path: Path) -> None:
    tokenizer = build()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[EOT]"]})
    tokenizer.add_tokens(["photosynthesis", "[EMAIL]", "<user>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[EOT]", "[LATER]"]})
    tokenizer.add_tokens([AddedToken("chlorophyll", single_word=True, normalized=False)])
    tokenizer.save_pretrained(tmp_path)
    expected = published(tmp_path, WORDY)
    added = {tokenizer.convert_tokens_to_ids(word) for word in ("photosynthesis", "chlorophyll", "[EMAIL]", "<user>")}
    assert added <= set(expected)
    assert ours(tmp_path, WORDY) == expected
    control = {tokenizer.convert_tokens_to_ids(token) for token in ("[EOT]", "[LATER]")}
    assert control <= set(published(tmp_path, "a [EOT] b[LATER]"))
    assert not control & set(ours(tmp_path, "a [EOT] b[LATER]"))


def test_an_added_word_that_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    tokenizer.add_tokens(["chlorophyll"])
    save_cross_encoder("bert", tmp_path, tokenizer)
    load_scorer(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[EOT]"]})
    tokenizer.save_pretrained(tmp_path)
    load_scorer(tmp_path)
    with pytest.raises(ModelError, match="it belongs to another model"):
        load_scorer(tmp_path, trust_text="true")
    tokenizer.add_tokens(["photosynthesis"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="it belongs to another model"):
        load_scorer(tmp_path)


def test_a_token_of_the_template_is_a_control_token_though_not_marked(tmp_path: Path) -> None:
    wordpiece().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    description = json.loads(path.read_text())
    for token in description["added_tokens"]:
        token["special"] = False
    path.write_text(json.dumps(description))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    control = {description["model"]["vocab"][token] for token in ("[CLS]", "[SEP]")}
    assert control <= set(published(tmp_path, "a [SEP] b [CLS]"))
    assert not control & set(ours(tmp_path, "a [SEP] b [CLS]"))


def test_a_language_model_has_added_words_but_hides_the_tokens_of_its_prompt(tmp_path: Path) -> None:
    tokenizer = qwen()
    tokenizer.add_tokens(["chlorophyll", "<h1>", "<|fim_prefix|>"])
    tokenizer.save_pretrained(tmp_path)
    text = "chlorophyll <h1> <|fim_prefix|> </think>"
    for trusted in (False, True):
        family = YesNo(tmp_path, QWEN3_RERANKER, 800, trusted=trusted)
        (item,) = family.encode("a", [text], max_length=800, instruction=None).items
        counts = {
            token: item.ids.tolist().count(tokenizer.convert_tokens_to_ids(token)) - (token == "</think>")
            for token in text.split()
        }
        hidden = 1 if trusted else 0
        assert counts == {"chlorophyll": 1, "<h1>": 1, "<|fim_prefix|>": hidden, "</think>": hidden}


# --- a model's own prompts -------------------------------------------------------------------

OWN = {"query": "[QUERY] how do ", "document": "<s>leaf</s>[DOC]"}


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta", "roberta"])
def test_control_tokens_of_a_models_own_prompts_are_such(tmp_path: Path, model_type: str) -> None:
    tokenizer = {"bert": wordpiece, "xlm-roberta": unigram, "roberta": byte_bpe}[model_type]()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[QUERY]"]})
    tokenizer.add_tokens(["[DOC]"])
    folder = save_embedding_model(tmp_path, model_type, "mean", True, OWN, tokenizer=tokenizer)
    scorer = load_scorer(folder)
    documents = ["plants make sugar of light", "", "  The stock market fell.", "leaf " * 100]
    expected = reference(folder, "plants?", documents)
    np.testing.assert_allclose(cosines(scorer, "plants?", documents), expected, atol=1e-5, rtol=0)
    texts = ["[QUERY]", "[QUERY]</s>"]
    items = scorer.family.encode(texts[0], texts[1:], max_length=64, instruction=None).items
    control = tokenizer.convert_tokens_to_ids("[QUERY]")
    assert [item.ids.tolist().count(control) for item in items] == [1, 0], "the prompt's, and not the texts'"


def test_lower_casing_leaves_the_tokens_of_a_prompt(tmp_path: Path) -> None:
    tokenizer = byte_bpe()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[QUERY]"]})
    folder = save_embedding_model(tmp_path, "roberta", "mean", True, {"query": "[QUERY] HOW "}, tokenizer=tokenizer)
    declared = {"max_seq_length": 40, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(declared))
    documents = ["Plants MAKE Sugar", "\u0130stanbul \u039f\u0394\u039f\u03a3"]
    expected = reference(folder, "Do PLANTS?", documents)
    np.testing.assert_allclose(cosines(load_scorer(folder), "Do PLANTS?", documents), expected, atol=1e-5, rtol=0)


# --- what other files set over tokenizer.json ------------------------------------------------

ACCENTS = "Na\u00efve CAF\u00c9 \u4f60\u597d\u4e16\u754c abc\u4f60\u597d How"


@pytest.mark.parametrize(
    "declared",
    [
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ],
)
@pytest.mark.parametrize("kind", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast"])
def test_what_a_bert_tokenizer_declares(tmp_path: Path, kind: str, declared: dict[str, bool]) -> None:
    tokenizer = wordpiece()
    tokenizer.add_tokens(["na", "\u00ef", "\u00e9", "caf", "CAF", "How", "\u4f60", "\u597d"])
    tokenizer.save_pretrained(tmp_path)
    description = json.loads((tmp_path / "tokenizer.json").read_text())
    tokens = [token["content"] for token in description["added_tokens"] if not token["special"]]
    vocabulary = description["model"]["vocab"]
    vocabulary |= {token: vocabulary.get(token, len(vocabulary) + at) for at, token in enumerate(tokens)}
    description["added_tokens"] = [token for token in description["added_tokens"] if token["special"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind} | declared))
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(ACCENTS, add_special_tokens=False).ids
    expected = published(tmp_path, ACCENTS)
    assert expected != alone, "equal ids would prove nothing"
    assert ours(tmp_path, ACCENTS) == expected


def test_a_blank_put_before_a_text_is_declared_beside_the_vocabulary(tmp_path: Path) -> None:
    byte_bpe().save_pretrained(tmp_path)
    declare(tmp_path, tokenizer_class="RobertaTokenizerFast", add_prefix_space=True)
    assert published(tmp_path, "how do")[0] != published(tmp_path, "xhow do")[1]
    assert ours(tmp_path, "how do") == published(tmp_path, "how do")


def test_words_and_control_tokens_that_only_other_files_declare(tmp_path: Path) -> None:
    wordpiece().save_pretrained(tmp_path)
    size = len(wordpiece())
    declared = {
        str(size): {"content": "chlorophyll", "special": False, "normalized": True},
        str(size + 1): {"content": "[EOT]", "special": True, "normalized": False},
    }
    path = tmp_path / "tokenizer_config.json"
    known = json.loads(path.read_text()).get("added_tokens_decoder", {})
    declare(tmp_path, added_tokens_decoder=known | declared)
    assert size in published(tmp_path, "of chlorophyll")
    assert ours(tmp_path, "of chlorophyll") == published(tmp_path, "of chlorophyll")
    assert size + 1 in published(tmp_path, "a [EOT] b")
    assert size + 1 not in ours(tmp_path, "a [EOT] b")


@pytest.mark.parametrize(("query", "document"), [(60, 60), (3, 300), (300, 3), (400, 2)])
def test_a_pair_loses_the_side_that_is_declared(tmp_path: Path, query: int, document: int) -> None:
    save_cross_encoder("bert", tmp_path)
    declare(tmp_path, truncation_side="left")
    texts = [" ".join(f"{word} {at % 10}" for at in range(n)) for word, n in (("how", query), ("food", document))]
    expected = AutoTokenizer.from_pretrained(tmp_path)([texts[0]], [texts[1]], truncation=True, max_length=40)
    encoded = load_scorer(tmp_path).family.encode(texts[0], texts[1:], max_length=40, instruction=None)
    assert encoded.items[0].ids.tolist() == expected["input_ids"][0]


def test_an_embedding_model_that_cuts_at_the_left_is_refused(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "bert", "mean", True, None)
    declare(folder, truncation_side="left")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: truncation_side is left"):
        load_scorer(folder)


def test_a_class_that_cannot_read_this_vocabulary_gives_way_to_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unigram().save_pretrained(tmp_path)
    declare(tmp_path, tokenizer_class="RobertaTokenizer")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    text = "how do plants make food"
    expected = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert ours(tmp_path, text) == expected
    assert "tokenizer.json" in caplog.text


# --- lengths ---------------------------------------------------------------------------------


def test_the_declared_length_of_a_classifier_narrows_the_default(tmp_path: Path) -> None:
    save_cross_encoder("bert", tmp_path)
    declare(tmp_path, model_max_length=32)
    assert load_scorer(tmp_path).family.max_length_bounds[1] == 32
    assert load_scorer(tmp_path, max_length="64").family.max_length_bounds[1] == 64
    declare(tmp_path, model_max_length=1000000000000000019884624838656)
    assert load_scorer(tmp_path).family.max_length_bounds[1] == 130


@pytest.mark.parametrize("length", ["64", 0, -1, 4, True])
def test_a_declared_length_that_is_none(tmp_path: Path, length: object) -> None:
    save_cross_encoder("bert", tmp_path)
    declare(tmp_path, model_max_length=length)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: model_max_length is"):
        load_scorer(tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_equal_sentence_transformers_with_all_of_it(tmp_path: Path, side: str) -> None:
    tokenizer = wordpiece()
    tokenizer.add_tokens(["photosynthesis", "How", "[EMAIL]"])
    save_cross_encoder("bert", tmp_path, tokenizer)
    declare(
        tmp_path, tokenizer_class="BertTokenizerFast", do_lower_case=False, model_max_length=32, truncation_side=side
    )
    query = "How does photosynthesis make Sugar?"
    documents = ["", "Na\u00efve PLANTS make sugar. [EMAIL]", "how " * 50 + "photosynthesis", "leaf " * 10]
    model = CrossEncoder(str(tmp_path), device="cpu")
    expected = model.predict([(query, text) for text in documents], activation_fn=torch.nn.Identity(), batch_size=1)
    scorer = load_scorer(tmp_path)
    encoded = scorer.family.encode(query, documents, max_length=scorer.family.max_length_bounds[1], instruction=None)
    got = scorer.family.combine(scorer.backend.forward(encoded.items))
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 0.02, "equal logits would prove nothing"


# --- older files -----------------------------------------------------------------------------


def test_a_vocabulary_of_bert_is_enough(tmp_path: Path) -> None:
    vocabulary = sorted(wordpiece().get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("\n".join(token for token, _ in vocabulary))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert ours(tmp_path, "How do plants make food?") == published(tmp_path, "How do plants make food?")
    assert wordpiece().convert_tokens_to_ids("plants") in ours(tmp_path, "How do plants make food?")


def test_a_sentencepiece_model_tells_what_it_needs(tmp_path: Path) -> None:
    if importlib.util.find_spec("sentencepiece"):
        pytest.skip("sentencepiece is installed")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    line = refusal(tmp_path)
    assert "sentencepiece.bpe.model" in line
    assert "pip install sentencepiece protobuf" in line


def test_a_tokenizer_that_is_python_code_tells_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("how 1\ndo 2\n")
    (tmp_path / "bpe.codes").write_text("h o 1\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PhobertTokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    line = refusal(tmp_path)
    assert "PhobertTokenizer" in line
    assert "tokenizer.json" in line


def test_what_cannot_be_read_says_why_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE"}}))
    line = refusal(tmp_path)
    assert "cannot be loaded" in line
    assert "add its tokenizer.json" in line


def test_a_vocabulary_that_lacks_its_unknown_token_is_one_line(tmp_path: Path) -> None:
    wordpiece().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    description = json.loads(path.read_text())
    description["model"] |= {"unk_token": "[OTHER]"}
    path.write_text(json.dumps(description))
    declare(tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    assert "fails at ordinary text" in refusal(tmp_path)
    description["model"] |= {"vocab": {"[PAD]": 0}}
    path.write_text(json.dumps(description | {"post_processor": None}))
    assert "its vocabulary is not complete" in refusal(tmp_path)


# --- the check of samples --------------------------------------------------------------------


def test_ids_that_are_not_those_of_transformers_stop_the_start(tmp_path: Path) -> None:
    byte_bpe().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    description = json.loads(path.read_text())
    words = ["o", "on", "one"]
    size = len(description["model"]["vocab"])
    description["model"]["vocab"] |= {word: size + at for at, word in enumerate(words[1:])}
    # A tokenizer that was left in training: it merges by chance.
    description["model"] |= {"merges": [[word, next_[-1]] for word, next_ in itertools.pairwise(words)]}
    path.write_text(json.dumps(description))
    declare(tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    TextEncoder(tmp_path)
    description["model"] |= {"dropout": 0.5}
    path.write_text(json.dumps(description))
    with pytest.raises(ModelError, match=r"of the text .* tokens"):  # one of them: which, is chance
        _try_often(tmp_path)


def _try_often(folder: Path) -> None:
    """Once in fifty times all are the same."""
    for _ in range(20):
        TextEncoder(folder)


# --- texts that are trusted ------------------------------------------------------------------


def test_trusted_texts_may_hold_control_tokens(build: Callable[[], PreTrainedTokenizerFast], tmp_path: Path) -> None:
    tokenizer = build()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[EOT]"]})
    tokenizer.save_pretrained(tmp_path)
    text = f"how [EOT] do{tokenizer.sep_token}plants {tokenizer.mask_token} food"
    assert ours(tmp_path, text, trusted=True) == published(tmp_path, text)
    assert ours(tmp_path, text) != published(tmp_path, text)


def test_the_setting_trusts_texts(tmp_path: Path) -> None:
    save_cross_encoder("bert", tmp_path)
    expected = AutoTokenizer.from_pretrained(tmp_path)(["a [SEP] b"], ["c"])["input_ids"][0]
    for trusted in ("true", "false"):
        family = load_scorer(tmp_path, trust_text=trusted).family
        item = family.encode("a [SEP] b", ["c"], max_length=64, instruction=None).items[0]
        assert (item.ids.tolist() == expected) == (trusted == "true")


def test_trusted_texts_that_the_folder_says_to_split(tmp_path: Path) -> None:
    wordpiece().save_pretrained(tmp_path)
    declare(tmp_path, split_special_tokens=True)
    assert ours(tmp_path, "a [SEP] b", trusted=True) == published(tmp_path, "a [SEP] b")
