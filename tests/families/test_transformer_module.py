"""What a folder declares of its transformer module is honoured as sentence-transformers does, or refused by its key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reranker_serve.errors import ModelError
from tests.checkpoints import load_scorer
from tests.families import test_bi_encoder_parity as bi
from tests.families import test_late_interaction_parity as late
from tests.families import test_modular_cross_encoder as modular
from tests.families.test_late_interaction import change

BERT = "sentence_bert_config.json"
Save = Callable[[Path], Path]


def save_bi_encoder(folder: Path) -> Path:
    return bi.save_embedding_model(folder, "bert", "mean", True, None)


def save_late(folder: Path) -> Path:
    return late.save_multi_vector(folder, expansion=late.FIXED, prompts=late.MARKED)


def save_modular(folder: Path) -> Path:
    return modular.save("ettin", folder)


def refused(folder: Path, **settings: str) -> str:
    with pytest.raises(ModelError) as raised:
        load_scorer(folder, **settings)
    line = str(raised.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


@pytest.mark.parametrize("save", [save_bi_encoder, save_late, save_modular])
@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"processing_kwargs": {"text": {"max_length": 10}}}, "processing_kwargs is {'text'"),
        ({"processor_kwargs": {"model_max_length": 10}}, "processor_kwargs sets model_max_length"),
        ({"tokenizer_args": {"model_max_length": 10}}, "tokenizer_args sets model_max_length"),
        ({"config_args": {"num_hidden_layers": 1}}, "config_args sets num_hidden_layers"),
        ({"model_args": ["x"]}, "model_args sets ['x']"),
        ({"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
        ({"module_output_name": "sentence_embedding"}, "module_output_name is 'sentence_embedding'"),
        ({"tokenizer_name_or_path": "another"}, "tokenizer_name_or_path is 'another'"),
        ({"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}, "pooler_output"),
        ({"modality_config": ["text"]}, "modality_config has ['text']"),
    ],
)
def test_what_would_change_the_vectors_is_refused(
    save: Save, declared: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = save(tmp_path)
    change(folder / BERT, **declared)
    assert f"{BERT}: " in refused(folder)
    assert named in refused(folder)


@pytest.mark.parametrize("save", [save_bi_encoder, save_modular])
@pytest.mark.parametrize("declared", [{"query_length": 10}, {"document_length": 10}, {"query_expansion": late.FIXED}])
def test_what_is_for_late_interaction_is_refused_elsewhere(
    save: Save, declared: dict[str, Any], tmp_path: Path
) -> None:
    folder = save(tmp_path)
    change(folder / BERT, **declared)
    assert f"{BERT}: {next(iter(declared))} is" in refused(folder)


def test_what_changes_nothing_is_no_reason_to_refuse(tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path)
    expected = bi.cosines(load_scorer(folder), bi.QUERY, bi.DOCUMENTS)
    change(folder / BERT, model_args={"add_pooling_layer": False}, tokenizer_args={}, unpad_inputs=False)
    np.testing.assert_array_equal(bi.cosines(load_scorer(folder), bi.QUERY, bi.DOCUMENTS), expected)


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_xlm-roberta_config.json"])
def test_older_names_of_the_file_are_read(name: str, tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path / "bi")
    change(folder / BERT, max_seq_length=10)
    (folder / BERT).rename(folder / name)
    scorer = load_scorer(folder)
    assert scorer.family.max_length_bounds[1] == 10
    expected = bi.reference(folder, bi.QUERY, bi.DOCUMENTS)
    np.testing.assert_allclose(bi.cosines(scorer, bi.QUERY, bi.DOCUMENTS), expected, atol=1e-5, rtol=0)
    folder = late.save_pylate(tmp_path / "late", declared={"document_length": None})
    change(folder / BERT, max_seq_length=20)
    (folder / BERT).rename(folder / name)
    late.agree(folder)


@pytest.mark.parametrize("save", [save_bi_encoder, save_late, save_modular])
@pytest.mark.parametrize("length", ["10", 0, -1, [512]])
def test_a_length_that_is_none_is_refused(save: Save, length: object, tmp_path: Path) -> None:
    folder = save(tmp_path)
    change(folder / BERT, max_seq_length=length)
    assert f"{BERT}: max_seq_length is {length!r}" in refused(folder)


def test_a_length_that_has_no_room_for_text_is_refused(tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path)
    change(folder / BERT, max_seq_length=2)
    assert "reads 2 tokens at most, of which the template takes 2" in refused(folder)


@pytest.mark.parametrize("both", [True, False])
def test_a_transformer_in_a_folder_of_its_own_is_refused(both: bool, tmp_path: Path) -> None:
    """As sentence-transformers wrote it before its version 2."""
    folder = save_bi_encoder(tmp_path)
    own = folder / "0_Transformer"
    own.mkdir()
    for path in folder.glob("*.*"):
        if path.is_file() and path.name != "modules.json":
            (shutil.copy if both else shutil.move)(path, own / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = own.name
    (folder / "modules.json").write_text(json.dumps(modules))
    line = refused(folder)
    assert "modules.json: the transformer is in a folder of its own" in line
    assert "save it again" in line


@pytest.mark.parametrize("prompts", ["query: ", ["query"], {"query": 3}])
def test_prompts_that_are_none_are_refused(prompts: object, tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path)
    change(folder / "config_sentence_transformers.json", prompts=prompts)
    assert f"config_sentence_transformers.json: prompts is {prompts!r}" in refused(folder)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("3_Normalize/config.json", {"module_output_name": "sentence_embedding"}, "module_output_name is"),
        # The filling would stand before the query, which else nothing does.
        ("tokenizer_config.json", {"padding_side": "left"}, "padding_side is left"),
    ],
)
def test_what_would_change_a_late_interaction_is_refused(
    file: str, values: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = save_late(tmp_path)
    change(folder / file, **values)
    assert f"{file}: {named}" in refused(folder)


@pytest.mark.parametrize("save", [save_bi_encoder, save_late, save_modular])
@pytest.mark.parametrize("place", [0, 1])
def test_a_module_of_the_repositorys_own_code_is_refused(save: Save, place: int, tmp_path: Path) -> None:
    """Though its class may be called as one that is known, as in jinaai/jina-embeddings-v3."""
    folder = save(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[place]["type"] = f"custom_st.{modules[place]['type'].rsplit('.', 1)[-1]}"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert f"the modules {', '.join(own(row['type']) for row in modules)} are not supported" in refused(folder)


def own(type: str) -> str:
    return type if type.startswith("custom_st") else type.rsplit(".", 1)[-1]
