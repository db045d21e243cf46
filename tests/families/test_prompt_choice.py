"""Which prompt a language model gets: what its files declare or the setting says, and never a guess."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reranker_serve.checkpoint import Checkpoint
from reranker_serve.errors import ModelError, StartupError
from reranker_serve.families.language_models import choose_prompt
from reranker_serve.families.prompts import MXBAI_V2, PROMPTS, QWEN3_RERANKER, Prompt
from tests.checkpoints import load_scorer, qwen, save_language_model, wordpiece
from tests.conftest import fake_settings
from tests.families.test_logit_score import ROLES


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


def shaped(folder: Path, **values: int) -> Checkpoint:
    """A Qwen3 of the shape of Qwen3-Reranker-0.6B, unless `values` say otherwise; only its configuration."""
    shape = {"vocab_size": 151_669, "hidden_size": 1024, "num_hidden_layers": 28} | values
    return Checkpoint(folder, {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **shape})


def as_template(prompt: Prompt) -> str:
    """The prompt as a chat template, whose system message is the instruction."""
    template = ROLES
    for piece in prompt.pieces:
        before, name, after = re.fullmatch(r"(.*?)(?:\{(\w+)\}(.*))?", piece, re.DOTALL).groups()  # type: ignore[union-attr]
        if name is None:
            template += f"{{{{- {json.dumps(piece)} -}}}}"
            continue
        said = "system" if name == "instruction" else name
        shown = f"{{{{- {json.dumps(before)} ~ ns.{said} ~ {json.dumps(after)} -}}}}"
        template += f"{{%- if ns.system -%}}{shown}{{%- endif -%}}" if name == "instruction" else shown
    return template


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
        ("mxbai-two-labels", "mxbai-rerank-v2"),
        ("zerank", "zerank"),
        ("ctxl", "ctxl-rerank-v2"),
        ("ctxl-6b", "ctxl-rerank-v2-6b"),
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
    (folder / "chat_template.jinja").write_text(as_template(MXBAI_V2))
    assert load_scorer(folder, max_length="1024").family.prompt == "mxbai-rerank-v2"


@pytest.mark.parametrize(("name", "prompt"), [("ctxl", "ctxl-rerank-v2"), ("ctxl-6b", "ctxl-rerank-v2-6b")])
def test_of_two_prompts_with_the_same_words_it_is_that_of_such_a_model(tmp_path: Path, name: str, prompt: str) -> None:
    folder = change(save_language_model(name, tmp_path), _name_or_path=None)
    (folder / "chat_template.jinja").write_text(as_template(PROMPTS[prompt]))
    assert load_scorer(folder, max_length="1024").family.prompt == prompt


def test_a_tokenizer_that_puts_a_blank_before_every_text_is_refused(tmp_path: Path) -> None:
    folder = save_language_model("ctxl-6b", tmp_path)
    description = json.loads((folder / "tokenizer.json").read_text())
    description["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(description))
    assert "its tokenizer puts a blank before every text" in refusal(folder)


def test_a_chat_model_is_refused_with_the_known_prompts(tmp_path: Path) -> None:
    line = refusal(chat(tmp_path), max_length="1024")
    assert "RERANKER_PROMPT" in line
    assert "qwen3-reranker, bge-reranker-gemma, mxbai-rerank-v2, zerank, ctxl-rerank-v2, ctxl-rerank-v2-6b" in line


def test_a_prompt_that_is_set_wins(tmp_path: Path) -> None:
    folder = chat(tmp_path)
    assert load_scorer(folder, prompt="mxbai-rerank-v2", max_length="1024").family.prompt == "mxbai-rerank-v2"


def test_an_unknown_prompt(tmp_path: Path) -> None:
    line = refusal(save_language_model("qwen3", tmp_path), prompt="qwen")
    assert "RERANKER_PROMPT=qwen is not known" in line
    assert "qwen3-reranker" in line


def test_metadata_of_another_prompt_is_not_overruled_by_the_vocabulary(tmp_path: Path) -> None:
    folder = change(save_language_model("qwen3", tmp_path), _name_or_path=None)
    assert choose_prompt(shaped(folder), fake_settings()) is QWEN3_RERANKER
    (folder / "modules.json").write_text("[]")
    assert "nothing in its files tells which prompt" in refusal(folder)
    with pytest.raises(ModelError, match="nothing in its files tells which prompt"):
        choose_prompt(shaped(folder), fake_settings())


@pytest.mark.parametrize(("hidden", "layers"), [(1024, 28), (2560, 36), (4096, 36)])
def test_a_qwen3_of_the_exact_shape_of_a_reranker_is_one(tmp_path: Path, hidden: int, layers: int) -> None:
    def prompt(**other: int) -> str:
        values = {"hidden_size": hidden, "num_hidden_layers": layers, **other}
        return choose_prompt(shaped(tmp_path, **values), fake_settings()).name

    assert prompt() == "qwen3-reranker"
    for other in ({"vocab_size": 151_936}, {"vocab_size": 151_668}, {"hidden_size": 2048}, {"num_hidden_layers": 12}):
        with pytest.raises(ModelError, match="nothing in its files tells which prompt"):
            prompt(**other)


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
    folder = change(save_language_model("qwen3-classifier", tmp_path), id2label={"0": "no", "1": "yes", "2": "maybe"})
    assert "has one label, or one for no and one for yes, this classifier has 3" in refusal(folder)


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
    family = YesNo(tmp_path, MXBAI_V2, 1024, shift=MXBAI_V2.shift_of(width))
    raw = np.array([-3.0, 0.0, 4.5, 6.0, 20.0], dtype=np.float32)
    np.testing.assert_allclose(family.activate(raw), 1 / (1 + np.exp(shift - raw.astype(np.float64))), rtol=1e-6)


def test_relevance_of_zerank_is_the_sigmoid_of_a_fifth(tmp_path: Path) -> None:
    import numpy as np

    family = load_scorer(save_language_model("zerank", tmp_path)).family
    raw = np.array([-30.0, 0.0, 5.5754, 20.0], dtype=np.float32)
    np.testing.assert_allclose(family.activate(raw), 1 / (1 + np.exp(-raw.astype(np.float64) / 5)), rtol=1e-6)
    assert family.score_scale == "relevance_score = sigmoid(raw score / 5), 0 to 1; raw score = logit 'Yes'"
