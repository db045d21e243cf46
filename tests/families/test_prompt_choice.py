"""Which prompt a language model gets: what its files declare or the setting says, and never a guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reranker_serve.errors import ModelError, StartupError
from tests.checkpoints import load_scorer, qwen, save_language_model, wordpiece


def refusal(folder: Path, **settings: str) -> str:
    with pytest.raises(StartupError) as caught:
        load_scorer(folder, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


def change(folder: Path, **values: object) -> Path:
    """Change values of a checkpoint's config.json; None takes one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder


def chat(folder: Path) -> Path:
    """A chat model of Qwen3's: a vocabulary padded beyond the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    save_language_model("qwen3", folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    model.resize_token_embeddings(151_936)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("qwen3", "qwen3-reranker"),
        ("qwen3-classifier", "qwen3-reranker"),
        ("gemma", "bge-reranker-gemma"),
        ("mxbai", "mxbai-rerank-v2"),
    ],
)
def test_a_published_checkpoint_gets_its_prompt(tmp_path: Path, name: str, prompt: str) -> None:
    family = load_scorer(save_language_model(name, tmp_path), max_length="1024").family
    assert (family.name, family.prompt) == ("yes_no", prompt)


def test_a_downloaded_repository_is_known_by_its_folder(tmp_path: Path) -> None:
    folder = change(save_language_model("mxbai", tmp_path / "mixedbread-ai_mxbai-rerank-large-v2"), _name_or_path=None)
    assert load_scorer(folder, max_length="1024").family.prompt == "mxbai-rerank-v2"
    similar = change(save_language_model("mxbai", tmp_path / "my-mxbai-rerank-large-v2"), _name_or_path=None)
    assert "nothing in its files tells which prompt" in refusal(similar)


def test_a_chat_template_that_holds_the_prompt_tells(tmp_path: Path) -> None:
    folder = change(save_language_model("mxbai", tmp_path), _name_or_path=None)
    template = "{{ 'You are a search relevance expert who evaluates how well documents match search queries.' }}"
    (folder / "chat_template.jinja").write_text(template)
    assert load_scorer(folder, max_length="1024").family.prompt == "mxbai-rerank-v2"


def test_a_chat_model_is_refused_with_the_known_prompts(tmp_path: Path) -> None:
    line = refusal(chat(tmp_path), max_length="1024")
    assert "RERANKER_PROMPT" in line
    assert "qwen3-reranker, bge-reranker-gemma, mxbai-rerank-v2" in line


def test_a_prompt_that_is_set_wins(tmp_path: Path) -> None:
    folder = chat(tmp_path)
    assert load_scorer(folder, prompt="mxbai-rerank-v2", max_length="1024").family.prompt == "mxbai-rerank-v2"


def test_an_unknown_prompt(tmp_path: Path) -> None:
    line = refusal(save_language_model("qwen3", tmp_path), prompt="qwen")
    assert "RERANKER_PROMPT=qwen is not known" in line
    assert "qwen3-reranker" in line


def test_metadata_of_another_prompt_is_not_overruled_by_the_vocabulary(tmp_path: Path) -> None:
    folder = save_language_model("qwen3", tmp_path)
    (folder / "modules.json").write_text("[]")
    assert "nothing in its files tells which prompt" in refusal(folder)


def test_a_tokenizer_without_the_answers(tmp_path: Path) -> None:
    folder = save_language_model("qwen3", tmp_path)
    description = json.loads((folder / "tokenizer.json").read_text())
    description["model"]["merges"] = [pair for pair in description["model"]["merges"] if pair[0] != "ye"]
    (folder / "tokenizer.json").write_text(json.dumps(description))
    assert "no single token for yes," in refusal(folder)


def test_a_tokenizer_without_the_control_tokens(tmp_path: Path) -> None:
    folder = save_language_model("qwen3", tmp_path)
    tokenizer = qwen()
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(description))
    # `<|im_end|>` is declared as eos_token as well.
    assert "no single token for <|im_start|> and <think> and </think>" in refusal(folder)


def test_a_conversion_with_several_labels(tmp_path: Path) -> None:
    folder = change(save_language_model("qwen3-classifier", tmp_path), id2label={"0": "no", "1": "yes"})
    assert "has one label, this classifier has 2" in refusal(folder)


def test_a_conversion_without_its_head(tmp_path: Path) -> None:
    folder = change(
        save_language_model("qwen3", tmp_path),
        architectures=["Qwen3ForSequenceClassification"],
        id2label={"0": "LABEL_0"},
        label2id={"LABEL_0": 0},
    )
    assert "score.weight" in refusal(folder, max_length="1024")


def test_a_model_that_is_code_in_its_repository(tmp_path: Path) -> None:
    folder = change(
        save_language_model("qwen3", tmp_path),
        architectures=["LayerWiseMiniCPMForCausalLM"],
        auto_map={"AutoModelForCausalLM": "modeling_minicpm_reranker.LayerWiseMiniCPMForCausalLM"},
    )
    line = refusal(folder)
    assert "LayerWiseMiniCPMForCausalLM exists only as code in the model's repository" in line


def test_a_max_length_that_the_prompt_alone_fills(tmp_path: Path) -> None:
    line = refusal(save_language_model("qwen3", tmp_path), max_length="64")
    assert "RERANKER_MAX_LENGTH=64 counts the whole prompt" in line
    least = int(line.rsplit("set it to ", 1)[1].split()[0])
    assert load_scorer(tmp_path, max_length=str(least)).family.max_length_bounds == (least, least)


@pytest.mark.parametrize(("setting", "value"), [("instruction", "Find recipes."), ("prompt", "qwen3-reranker")])
def test_settings_of_language_models_are_refused_for_others(tmp_path: Path, setting: str, value: str) -> None:
    from tests.checkpoints import save_cross_encoder

    folder = save_cross_encoder("bert", tmp_path, wordpiece())
    assert f"RERANKER_{setting.upper()} is set, but" in refusal(folder, **{setting: value})


def test_a_server_instruction_needs_a_place_in_the_prompt(tmp_path: Path) -> None:
    folder = save_language_model("gemma", tmp_path)
    assert "has no place for one" in refusal(folder, instruction="Find recipes.")
    with pytest.raises(ModelError):
        load_scorer(change(folder, architectures=["GemmaModel"]))


@pytest.mark.parametrize(("width", "shift"), [(896, 4.5), (1536, 6.0), (64, 6.0)])
def test_relevance_of_mxbai_is_its_shifted_sigmoid(tmp_path: Path, width: int, shift: float) -> None:
    import numpy as np

    from reranker_serve.families.prompts import MXBAI_V2
    from reranker_serve.families.yes_no import YesNo

    qwen().save_pretrained(tmp_path)
    family = YesNo(tmp_path, MXBAI_V2, 1024, MXBAI_V2.shift_of(width), classifier=False)
    raw = np.array([-3.0, 0.0, 4.5, 6.0, 20.0], dtype=np.float32)
    np.testing.assert_allclose(family.activate(raw), 1 / (1 + np.exp(shift - raw.astype(np.float64))), rtol=1e-6)
