"""A small random checkpoint of every kind that is served, with heads of a size that attention on a GPU takes."""

from __future__ import annotations

import json
import random
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tokenizers import processors
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from reranker_serve.families.prompts import QWEN3_RERANKER
from tests.checkpoints import (
    CROSS_ENCODERS,
    LANGUAGE_MODELS,
    PACKED,
    SMALL_DECODER,
    WORDS,
    qwen,
    save_cross_encoder,
    save_encoder,
    save_language_model,
    save_listwise,
    spread_out,
)
from tests.remote_layouts import as_flash_xlm_roberta, as_new_impl

Save = Callable[[Path], Path]

HIDDEN = 64
# Heads of 16: the kernel of packed attention takes multiples of 8.
_SIZE = {"hidden_size": HIDDEN, "dim": HIDDEN, "intermediate_size": 128, "hidden_dim": 128}
_BEGIN = "<|begin_of_text|>"
_QUERY = "how do plants make food"


@dataclass(frozen=True, slots=True)
class Small:
    """`save` writes the checkpoint below a folder and tells where; `packed`: no sequence is padded on a GPU."""

    name: str
    save: Save
    packed: bool = True
    model_type: str = "bert"

    @property
    def known(self) -> bool:
        """Whether this version of transformers has its class."""
        return self.model_type in CONFIG_MAPPING


def texts(documents: int, seed: int = 0, longest: int = 90) -> tuple[str, list[str]]:
    """A query, and documents of 1 to `longest` words."""
    source = random.Random(seed)
    lengths = [source.randint(1, longest) for _ in range(documents)]
    return _QUERY, [" ".join(source.choices(WORDS, k=length)) for length in lengths]


def all_kinds() -> list[Small]:
    """What most people serve first."""
    encoders = [
        Small(name, _cross_encoder(name), name in PACKED, name.removesuffix("-mean").removesuffix("-bos"))
        for name in CROSS_ENCODERS
    ]
    decoders = [Small(name, _language_model(name)) for name in LANGUAGE_MODELS]
    others = [
        Small("modular ettin", _modular),
        Small("LogitScore", _logit_score),
        Small("listwise", lambda folder: save_listwise(_made(folder))),
        Small("late interaction bert", _late("bert")),
        Small("late interaction modernbert", _late("modernbert")),
        Small("bi-encoder mean", _bi_encoder("bert", "mean")),
        Small("bi-encoder last", _bi_encoder("xlm-roberta", "lasttoken")),
        Small("bidirectional Llama", _bidirectional),
        Small("head behind a language model", _head),
        Small("jina-reranker-v2", lambda folder: as_flash_xlm_roberta(_cross_encoder("xlm-roberta")(folder))),
        Small("gte new-impl", lambda folder: as_new_impl(_cross_encoder("gte")(folder)), model_type="gte"),
    ]
    return [*encoders[:3], *decoders[:1], *others[:7], *encoders[3:], *decoders[1:], *others[7:]]


def in_bfloat16(folder: Path) -> Path:
    """A copy whose weights are rounded to bfloat16, and stored so."""
    copy = folder.with_name(f"{folder.name}-bfloat16")
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    rounded = {name: part.bfloat16() if part.is_floating_point() else part for name, part in weights.items()}
    save_file(rounded, copy / "model.safetensors", {"format": "pt"})
    _change(copy, dtype="bfloat16")
    return copy


def too_large_for_float16(folder: Path) -> Path:
    """The same folder, with activations inside the model beyond 65,504."""
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("1.output.dense.weight"))
    save_file(weights | {name: weights[name] * 1e5}, folder / "model.safetensors", {"format": "pt"})
    return folder


def damaged(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("1.output.dense.weight"))
    save_file(weights | {name: weights[name] * float("nan")}, folder / "model.safetensors", {"format": "pt"})
    return folder


def wide(folder: Path, tiny: bool, hidden: int = 768) -> Path:
    """A cross-encoder whose passes take memory and time: few layers, of BERT's base size or more."""
    if tiny:
        return _cross_encoder("xlm-roberta")(folder)
    size = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_attention_heads": hidden // 64}
    size["num_hidden_layers"] = 6
    return save_cross_encoder("xlm-roberta", _made(folder), **size)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cross_encoder(name: str) -> Save:
    return lambda folder: save_cross_encoder(name, _made(folder), **_SIZE)


def _language_model(name: str) -> Save:
    return lambda folder: save_language_model(name, _made(folder))


def _modular(folder: Path) -> Path:
    """As ettin-reranker is published: ModernBERT, and the head in modules of its own."""
    body = save_encoder("modernbert", folder.with_name("body"), **_SIZE)
    head = [Dense(HIDDEN, HIDDEN, bias=False, activation_function=nn.GELU()), LayerNorm(HIDDEN), _score()]
    return _saved(
        [Transformer(str(body), transformer_task="feature-extraction"), Pooling(HIDDEN, "cls"), *head], folder
    )


def _logit_score(folder: Path) -> Path:
    body = Transformer(str(_told_by_template(folder.with_name("body"))), transformer_task="text-generation")
    ids = [body.tokenizer.convert_tokens_to_ids(token) for token in ("yes", "no")]
    return _saved([body, LogitScore(*ids)], folder)


def _head(folder: Path) -> Path:
    body = Transformer(str(_told_by_template(folder.with_name("body"))), transformer_task="feature-extraction")
    return _saved([body, Pooling(HIDDEN, "lasttoken"), _score()], folder)


def _score() -> Dense:
    return Dense(HIDDEN, 1, activation_function=nn.Identity(), module_output_name="scores")


def _saved(modules: list[nn.Module], folder: Path) -> Path:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in nn.ModuleList(modules[1:]).parameters():
            parameter.normal_(0, 0.4)
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


def _told_by_template(folder: Path) -> Path:
    """Qwen3 as sentence-transformers converts it: a chat template tells the prompt."""
    save_language_model("qwen3", _made(folder))
    _change(folder, _name_or_path=None)
    system = QWEN3_RERANKER.before[0].removeprefix("<|im_start|>system\n")
    system = system.removesuffix("<|im_end|>\n<|im_start|>user\n")
    roles = [
        "{%- if message.role == '" + role + "' -%}{%- set ns." + role + " = message.content -%}{%- endif -%}\n"
        for role in ("system", "query", "document")
    ]
    template = (
        "{%- set ns = namespace(system='', query='', document='') -%}\n{%- for message in messages -%}\n"
        + "".join(roles)
        + "{%- endfor -%}\n{{- '<|im_start|>system\\n"
        + system
        + "<|im_end|>\\n<|im_start|>user\\n<Instruct>: ' + (ns.system or '"
        + str(QWEN3_RERANKER.instruction)
        + "') + '\\n<Query>: ' + ns.query + '\\n<Document>: ' + ns.document"
        + " + '<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' -}}"
    )
    (folder / "chat_template.jinja").write_text(template)
    return folder


def _late(name: str) -> Save:
    def save(folder: Path) -> Path:
        body = save_encoder(name, folder.with_name("body"), **_SIZE)
        torch.manual_seed(1)
        modules = [
            Transformer(str(body), query_expansion={"strategy": "fixed", "length": 32}),
            Dense(HIDDEN, 16, bias=False, activation_function=None, module_input_name="token_embeddings"),
            MultiVectorMask(list(string.punctuation)),
            Normalize(module_input_name="token_embeddings"),
        ]
        MultiVectorEncoder(modules=modules, device="cpu").save(str(folder))
        return folder

    return save


def _bi_encoder(name: str, pooling: str) -> Save:
    def save(folder: Path) -> Path:
        body = save_encoder(name, folder.with_name("body"), **_SIZE)
        modules = [Transformer(str(body), max_seq_length=128), Pooling(HIDDEN, pooling)]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder))
        return folder

    return save


def _bidirectional(folder: Path) -> Path:
    """llama-nemotron-rerank's layout: a token begins every text."""
    tokenizer = qwen()
    tokenizer.add_special_tokens({"bos_token": _BEGIN})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A {_BEGIN} $B", special_tokens=[(_BEGIN, tokenizer.bos_token_id)]
    )
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = LlamaConfig(**SMALL_DECODER, vocab_size=len(tokenizer), num_labels=1, **ids)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    code = {"AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig"}
    _change(
        folder,
        architectures=["LlamaBidirectionalForSequenceClassification"],
        model_type="llama_bidirec",
        auto_map=code,
    )
    return folder


def _change(folder: Path, **changes: Any) -> None:
    """Keys of its configuration; None takes one away."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
