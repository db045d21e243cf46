"""MaxSim equals that of sentence-transformers' MultiVectorEncoder, for every layout of a folder that it reads."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import SMALL, byte_bpe, load_scorer, real_tokenizer, spread_out, unigram, wordpiece
from tests.families.test_cross_encoder_parity import LONG, text

QUERY = "How do plants make food?"
DOCUMENTS = [
    "",
    "a",
    "  leading blanks, and: punctuation!?\n",
    "The stock market fell.",
    "plants make sugar of light",
    text(30, 1),
    text(12, 2),
    LONG,
]
BACKBONES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (wordpiece, {"type_vocab_size": 2}),
    "xlm-roberta": (unigram, {"max_position_embeddings": 132, "type_vocab_size": 1}),
    "mpnet": (unigram, {"max_position_embeddings": 132}),
    "modernbert": (byte_bpe, {"local_attention": 128, "global_attn_every_n_layers": 2, "num_hidden_layers": 4}),
}
PACKED = ["bert", "xlm-roberta", "modernbert"]
FIXED = {"strategy": "fixed", "length": 32}
MARKED = {"query": "[Q] ", "document": "[D] "}


def save_backbone(
    folder: Path, name: str, changes: dict[str, Any] | None = None, markers: Any = (), tokenizer: Any = None
) -> Path:
    build, known = BACKBONES[name]
    tokenizer = tokenizer or build()
    tokenizer.add_tokens(list(markers), special_tokens=True)
    tokenizer.model_max_length = 128
    config = CONFIG_MAPPING[name](
        **{
            **SMALL,
            **known,
            **(changes or {}),
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        }
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_multi_vector(
    folder: Path,
    name: str = "bert",
    *,
    expansion: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    changes: dict[str, Any] | None = None,
    dense: list[Dense] | None = None,
    skipped: list[str] | None = None,
    normalized: bool = True,
    similarity: str | None = None,
    **transformer: Any,
) -> Path:
    """As sentence-transformers writes a MultiVectorEncoder."""
    markers = [prompt for prompt in (prompts or {}).values() if prompt.startswith("[")]
    bare = save_backbone(folder / "bare", name, changes, markers)
    torch.manual_seed(1)
    projections = dense or [Dense(48, 16, bias=False, activation_function=None, module_input_name="token_embeddings")]
    modules = [
        Transformer(str(bare), query_expansion=expansion, **transformer),
        *projections,
        MultiVectorMask(list(string.punctuation) if skipped is None else skipped),
        *([Normalize(module_input_name="token_embeddings")] if normalized else []),
    ]
    model = MultiVectorEncoder(modules=modules, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def max_sims(scorer: Scorer, query: str, documents: list[str]) -> FloatArray:
    longest = scorer.family.max_length_bounds[1]
    encoded = scorer.family.encode(query, documents, max_length=longest, instruction=None)
    return scorer.family.combine(scorer.backend.forward(encoded.items))


def reference(folder: Path, query: str, documents: list[str]) -> FloatArray:
    model = MultiVectorEncoder(str(folder), device="cpu")
    left = model.encode_query([query], convert_to_numpy=True)
    right = model.encode_document(documents, convert_to_numpy=True, batch_size=3)
    scores: FloatArray = model.similarity(left, right)[0].numpy()
    return scores


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("expansion", [None, FIXED, FIXED | {"attend": True}, {"strategy": "min", "length": 24}])
@pytest.mark.parametrize("query", [QUERY, text(60, 3)])
def test_scores_equal_sentence_transformers(
    name: str, expansion: dict[str, Any] | None, query: str, tmp_path: Path
) -> None:
    folder = save_multi_vector(tmp_path, name, expansion=expansion, prompts=MARKED, document_length=40)
    scorer = load_scorer(folder)
    assert scorer.family.name == "late_interaction"
    assert scorer.backend.attention.startswith("packed")
    expected = reference(folder, query, DOCUMENTS)
    np.testing.assert_allclose(max_sims(scorer, query, DOCUMENTS), expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 1e-1, "equal scores would prove nothing"


def save_pylate(
    folder: Path,
    name: str = "bert",
    declared: dict[str, Any] | None = None,
    special: bool = False,
    tokenizer: Any = None,
) -> Path:
    """As PyLate 1.x writes it: two modules, and the rest beside them."""
    save_backbone(folder, name, tokenizer=tokenizer)
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[Q] ", "[D] "], special_tokens=special)
    tokenizer.save_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    torch.manual_seed(2)
    model.resize_token_embeddings(len(tokenizer))
    spread_out(model)
    model.save_pretrained(folder)
    write(
        folder,
        "modules.json",
        [module(0, "", "sentence_transformers.models.Transformer"), module(1, "1_Dense", PYLATE)],
    )
    write(folder, "sentence_bert_config.json", {"max_seq_length": 31, "do_lower_case": False})
    save_dense(folder / "1_Dense", 48, 16)
    known = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 24, "document_length": 40}
    expansion = {"do_query_expansion": True, "attend_to_expansion_tokens": False}
    write(folder, "config_sentence_transformers.json", known | expansion | {"model_type": "ColBERT"} | (declared or {}))
    return folder


PYLATE = "pylate.models.Dense.Dense"


def module(place: int, path: str, type: str) -> dict[str, Any]:
    return {"idx": place, "name": str(place), "path": path, "type": type}


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def save_dense(folder: Path, inputs: int, outputs: int, **more: Any) -> None:
    identity = "torch.nn.modules.linear.Identity"
    config = {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": identity}
    write(folder, "config.json", config | more)
    weights = {"linear.weight": torch.randn(outputs, inputs)}
    if more.get("use_residual") and inputs != outputs:
        weights["residual.weight"] = torch.randn(outputs, inputs)
    save_file(weights, folder / "model.safetensors")


def agree(folder: Path, queries: Sequence[str] = (QUERY, text(60, 3))) -> Scorer:
    """Whether a folder's scores are those of the library; returns what was loaded."""
    scorer = load_scorer(folder)
    assert scorer.family.name == "late_interaction"
    for query in queries:
        expected = reference(folder, query, DOCUMENTS)
        np.testing.assert_allclose(max_sims(scorer, query, DOCUMENTS), expected, atol=1e-4, rtol=0)
        assert np.ptp(expected) > 1e-1, "equal scores would prove nothing"
    return scorer


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", PACKED)
def test_pylates_folders(name: str, special: bool, tmp_path: Path) -> None:
    scorer = agree(save_pylate(tmp_path, name, special=special))
    assert len(scorer.family.encode(QUERY, [""], max_length=40, instruction=None).items[0]) == 24


REAL = [
    ("bert", "bert-base-uncased"),
    ("modernbert", "modernbert-base"),
    ("xlm-roberta", "xlm-roberta-base-reconstructed"),
]


@pytest.mark.parametrize(("name", "tokenizer"), REAL)
def test_real_tokenizers(name: str, tokenizer: str, tmp_path: Path) -> None:
    folder = save_pylate(tmp_path, name, tokenizer=AutoTokenizer.from_pretrained(real_tokenizer(tokenizer)))
    scorer = load_scorer(folder)
    odd = ["    def f(x):\n\treturn x  # tab", "déjà vu, naïve: \u4f60\u597d \U0001f600!", "it's 3.14 (ca.)"]
    documents = [*DOCUMENTS, *odd]
    for query in (" leading blank", "What's the Red Planet?"):
        np.testing.assert_allclose(max_sims(scorer, query, documents), reference(folder, query, documents), atol=1e-4)


def test_markers_that_a_real_vocabulary_holds(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real_tokenizer("bert-base-uncased"))
    declared = {"query_prefix": "[unused0] ", "document_prefix": "[unused1]"}
    agree(save_pylate(tmp_path, declared=declared, tokenizer=tokenizer))


def test_an_encoder_that_cannot_be_packed(tmp_path: Path) -> None:
    scorer = agree(save_multi_vector(tmp_path, "mpnet", expansion=FIXED, prompts=MARKED))
    assert scorer.backend.attention.startswith("padded")


@pytest.mark.parametrize(
    "declared",
    [
        {"do_query_expansion": False},
        {"attend_to_expansion_tokens": True},
        {"skiplist_words": []},
        {"skiplist_words": ["a", "of", "unknown"], "query_length": None, "document_length": None},
        {"query_expansion": {"strategy": "min", "length": 16}},
        {"prompts": {"query": "how ", "document": "[D] of "}},
        {"query_prefix": "", "document_prefix": None},
        {"model_type": "SentenceTransformer"},
    ],
)
def test_what_pylate_declares(declared: dict[str, Any], tmp_path: Path) -> None:
    agree(save_pylate(tmp_path, declared=declared))


def test_older_folders_of_pylates_name_no_type(tmp_path: Path) -> None:
    folder = save_pylate(tmp_path)
    path = folder / "config_sentence_transformers.json"
    declared = json.loads(path.read_text())
    del declared["model_type"]
    write(folder, path.name, declared)
    agree(folder)


def test_what_the_transformer_declares_goes_before_what_pylate_does(tmp_path: Path) -> None:
    folder = save_pylate(tmp_path)
    own = {"max_seq_length": 31, "do_lower_case": True, "document_length": 20, "query_expansion": None}
    write(folder, "sentence_bert_config.json", own)
    agree(folder)


@pytest.mark.parametrize("lowercase", [False, True])
def test_lower_casing(lowercase: bool, tmp_path: Path) -> None:
    folder = save_pylate(tmp_path, "modernbert", {"do_query_expansion": False})
    cased = max_sims(load_scorer(folder), QUERY, DOCUMENTS)
    write(folder, "sentence_bert_config.json", {"max_seq_length": 31, "do_lower_case": lowercase})
    assert np.array_equal(max_sims(agree(folder), QUERY, DOCUMENTS), cased) != lowercase


@pytest.mark.parametrize("residual", [False, True])
def test_a_chain_of_projections(residual: bool, tmp_path: Path) -> None:
    folder = save_pylate(tmp_path, "modernbert")
    modules = [module(0, "", "sentence_transformers.models.Transformer")]
    for place, (inputs, outputs) in enumerate([(48, 64), (64, 64), (64, 8)], start=1):
        modules.append(module(place, f"{place}_Dense", PYLATE))
        save_dense(folder / f"{place}_Dense", inputs, outputs, use_residual=residual)
    write(folder, "modules.json", modules)
    assert agree(folder).family.readout.width == 8


def save_stanford(folder: Path, metadata: dict[str, Any] | None) -> Path:
    """As ColBERT's own code writes it; markers are words of the vocabulary, and no control tokens."""
    tokenizer = wordpiece()
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    for word in ("[unused0]", "[unused1]", "[unused2]"):
        vocabulary[word] = len(vocabulary)
    special = {
        name: getattr(tokenizer, name) for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    tokenizer = BertTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)), **special)
    config = CONFIG_MAPPING["bert"](**SMALL, vocab_size=len(vocabulary), pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights | {"linear.weight": torch.randn(16, 48)}, folder / "model.safetensors", {"format": "pt"})
    write(folder, "config.json", json.loads((folder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]})
    if metadata is not None:
        write(folder, "artifact.metadata", metadata)
    return folder


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"query_maxlen": 24, "doc_maxlen": 40, "dim": 16, "similarity": "cosine", "mask_punctuation": True},
        {"query_token_id": "[unused1]", "doc_token_id": "[unused2]", "mask_punctuation": False},
        {"attend_to_mask_tokens": True, "query_maxlen": 48},
    ],
)
def test_stanfords_folders(metadata: dict[str, Any] | None, tmp_path: Path) -> None:
    scorer = agree(save_stanford(tmp_path, metadata))
    item = scorer.family.encode("how", [""], max_length=48, instruction=None).items[0]
    assert item.ids[1] == len(scorer.family._encoder._plain.get_vocab()) - (
        3 if "query_token_id" not in (metadata or {}) else 2
    )


@pytest.mark.parametrize(
    "prompts", [None, {"query": "how: ", "document": "leaf "}, {"query": "[Q] how ", "document": ""}]
)
@pytest.mark.parametrize("name", PACKED)
def test_prompts_are_text_behind_what_is_a_token(name: str, prompts: dict[str, str] | None, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, name, prompts=prompts, document_length=40, query_length=20)
    if prompts and prompts["query"].startswith("["):
        prompts = prompts | {"query": prompts["query"] + "do "}
        path = folder / "config_sentence_transformers.json"
        write(folder, path.name, json.loads(path.read_text()) | {"prompts": prompts})
    agree(folder)


def test_mean_of_vectors_that_are_not_normalized(tmp_path: Path) -> None:
    agree(save_multi_vector(tmp_path, normalized=False, similarity="meanmaxsim", expansion=FIXED))


def test_no_projection_and_a_skip_list_for_both_sides(tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, "xlm-roberta", prompts=MARKED)
    modules = json.loads((folder / "modules.json").read_text())
    write(folder, "modules.json", [row for row in modules if not row["type"].endswith("Dense")])
    write(
        folder / "2_MultiVectorMask", "config.json", {"skiplist_words": ["?"], "skiplist_tasks": ["query", "document"]}
    )
    agree(folder)


@pytest.mark.parametrize("name", PACKED)
def test_no_score_depends_on_its_company(name: str, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, name, expansion=FIXED, prompts=MARKED, document_length=40)
    scorer = load_scorer(folder)
    together = max_sims(scorer, QUERY, DOCUMENTS)
    backwards = max_sims(scorer, QUERY, DOCUMENTS[::-1])[::-1]
    alone = np.concatenate([max_sims(scorer, QUERY, [document]) for document in DOCUMENTS])
    np.testing.assert_allclose(together, backwards, atol=1e-4)
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("tasks", [[], "query", ["query", "document"]])
def test_which_sides_skip_words(tasks: Any, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, prompts=MARKED)
    path = folder / "2_MultiVectorMask" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"skiplist_tasks": tasks}))
    agree(folder)
