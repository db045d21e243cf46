"""Small random-weight checkpoints in the published layout, with tokenizers built here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from reranker_serve.environment import load_settings
from reranker_serve.loader import load
from reranker_serve.types import Scorer

_TEXT = "how do plants make food the stock market fell sun light water sugar leaf bread yeast a of and in whale"
WORDS = _TEXT.split()
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?-'\"()[]<>/|_:;#@&%*+=")


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: `[CLS] a [SEP] b [SEP]` with token types."""
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
    ]
    ids = {token: index for index, token in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def unigram() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's: `<s> a </s></s> b </s>`; control tokens are pieces of the vocabulary with score 0."""
    control = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"\u2581{word}", -3.0 - index / 10) for index, word in enumerate(WORDS)]
    letters = [("\u2581", -4.0), *((letter, -8.0) for letter in LETTERS)]
    tokenizer = Tokenizer(models.Unigram([*control, *words, *letters, ("<mask>", 0.0)], unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _roberta_style(tokenizer)


def byte_bpe() -> PreTrainedTokenizerFast:
    """RoBERTa's: byte level, `<s> a </s></s> b </s>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet, "<mask>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return _roberta_style(tokenizer)


def _roberta_style(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def real_tokenizer(name: str) -> Path:
    """A real tokenizer's folder; skips the test where there is none."""
    import pytest  # these checkpoints are made on machines without it, too

    data = os.environ.get("RR_TEST_DATA")
    if not data:
        pytest.skip("RR_TEST_DATA is not set: no real tokenizers")
    return Path(data) / "tokenizers" / name


SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 130,
}

# name -> (tokenizer, configuration beyond SMALL)
CROSS_ENCODERS = {
    "xlm-roberta": (unigram, {"max_position_embeddings": 132, "type_vocab_size": 1}),
    "roberta": (byte_bpe, {"max_position_embeddings": 132, "type_vocab_size": 1, "num_hidden_layers": 1}),
    "bert": (wordpiece, {"type_vocab_size": 2}),
    "distilbert": (wordpiece, {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96}),
    "electra": (wordpiece, {"embedding_size": 24, "type_vocab_size": 2, "num_hidden_layers": 2}),
    "modernbert": (
        byte_bpe,
        {"local_attention": 8, "global_attn_every_n_layers": 2, "num_hidden_layers": 4, "classifier_pooling": "cls"},
    ),
    "modernbert-mean": (
        byte_bpe,
        {"local_attention": 8, "global_attn_every_n_layers": 2, "num_hidden_layers": 2, "classifier_pooling": "mean"},
    ),
    "deberta-v2": (
        unigram,
        {
            "type_vocab_size": 0,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "max_relative_positions": 32,
        },
    ),
    "camembert": (unigram, {"max_position_embeddings": 132, "type_vocab_size": 1}),
    "xlm-roberta-xl": (unigram, {"max_position_embeddings": 132, "type_vocab_size": 1}),
    "mpnet": (unigram, {"max_position_embeddings": 132}),
    "albert": (wordpiece, {"embedding_size": 24, "type_vocab_size": 2}),
    "ernie": (wordpiece, {"type_vocab_size": 2, "use_task_id": True}),
    "eurobert": (byte_bpe, {"num_key_value_heads": 2}),
    "eurobert-mean": (byte_bpe, {"classifier_pooling": "mean", "num_hidden_layers": 2}),
    "eurobert-bos": (byte_bpe, {"classifier_pooling": "bos", "num_hidden_layers": 2}),
    "deberta": (byte_bpe, {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "nomic_bert": (wordpiece, {"type_vocab_size": 2}),
    "roformer": (wordpiece, {"type_vocab_size": 2}),
    "jina_embeddings_v3": (unigram, {"max_position_embeddings": 132, "type_vocab_size": 1}),
    "gte": (unigram, {"type_vocab_size": 1}),
}
PACKED = set(CROSS_ENCODERS) - {"deberta-v2", "deberta", "mpnet", "roformer"}


def save_cross_encoder(
    name: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    id2label: dict[int, str] | None = None,
    **size: int,
) -> Path:
    """Save a random reranker of the architecture `name` (see CROSS_ENCODERS) in `folder`; of one label by default.

    `size` are keys of its configuration that are to be others.
    """
    return _save_encoder(name, folder, tokenizer, AutoModelForSequenceClassification, id2label, size)


def save_encoder(name: str, folder: Path, **size: int) -> Path:
    """The same without a head: what sentence-transformers puts modules behind."""
    return _save_encoder(name, folder, None, AutoModel, None, size)


def _save_encoder(
    name: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast | None,
    kind: Any,
    id2label: dict[int, str] | None,
    size: dict[str, int],
) -> Path:
    build, changes = CROSS_ENCODERS[name]
    tokenizer = tokenizer or build()
    tokenizer.model_max_length = 128
    model_type = name.removesuffix("-mean").removesuffix("-bos")
    config = CONFIG_MAPPING[model_type](
        **{
            **SMALL,
            **changes,
            **size,
            "vocab_size": len(tokenizer),
            **({"num_labels": 1} if id2label is None else {"id2label": id2label}),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        }
    )
    torch.manual_seed(0)
    model = kind.from_config(config)
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spread_out(model: PreTrainedModel) -> None:
    """Weights large enough that different pairs get visibly different numbers."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3 if "embedding" in name else 0.18)
            elif "bias" in name:
                parameter.normal_(0, 0.1)


def load_scorer(folder: Path, **settings: str) -> Scorer:
    """Load a checkpoint as the server does, in float32 unless told otherwise.

    On one thread: a tiny model gains nothing from more, and they wait for each other on a busy machine.
    """
    names = {"RERANKER_MODEL_PATH": str(folder), "RERANKER_USE_FP16": "false", "RERANKER_CPU_THREADS": "1"}
    names |= {f"RERANKER_{name.upper()}": value for name, value in settings.items()}
    return load(load_settings(names, env_file=Path("/nonexistent"))[0])


def qwen() -> PreTrainedTokenizerFast:
    """Qwen's: byte level with its way of cutting words, chat tokens, and `<think>` added but not special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("y", "e"),
        ("ye", "s"),
        ("n", "o"),
        ("Y", "e"),
        ("Ye", "s"),
        ("?", "\u010a"),
        ("\u0120", "d"),
        ("\u0120", "q"),
        (">", ":"),
    ]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    letters, rest = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", r"\s*[\r\n]+|\s+(?!\S)|\s+"
    words = rf"{letters}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{rest}"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")


def tekken() -> PreTrainedTokenizerFast:
    """Mistral's: byte level, its control tokens first."""
    control = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*control, *alphabet, "\u0120?", "\u0120??"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\u0120", "?"), ("\u0120?", "?")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(control)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def gemma() -> PreTrainedTokenizerFast:
    """Gemma's: blanks as lower blocks, bytes for what is not in the vocabulary, `<bos>` in front."""
    letters = [*LETTERS, *(chr(code) for code in range(ord("A"), ord("Z") + 1)), "\u2581", "\n"]
    merges = [("Y", "e"), ("Ye", "s"), ("\u2581", "a"), ("\u2581", "p"), (":", "\u2581")]
    spelled = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {
        token: index
        for index, token in enumerate(dict.fromkeys([*spelled, *letters, *("".join(pair) for pair in merges)]))
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


# name -> (architecture's model type, tokenizer, configuration beyond SMALL_DECODER, head)
SMALL_DECODER = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
}
LANGUAGE_MODELS = {
    "qwen3": ("qwen3", qwen, {"tie_word_embeddings": True}, AutoModelForCausalLM),
    "qwen3-untied": ("qwen3", qwen, {"tie_word_embeddings": False, "num_hidden_layers": 2}, AutoModelForCausalLM),
    "qwen3-classifier": ("qwen3", qwen, {"num_labels": 1}, AutoModelForSequenceClassification),
    "gemma": ("gemma", gemma, {"num_key_value_heads": 1, "num_hidden_layers": 4}, AutoModelForCausalLM),
    "mxbai": ("qwen2", qwen, {"tie_word_embeddings": True}, AutoModelForCausalLM),
    "zerank": ("qwen3", qwen, {"tie_word_embeddings": True}, AutoModelForCausalLM),
    "ctxl": ("qwen3", qwen, {"tie_word_embeddings": False}, AutoModelForCausalLM),
    "ctxl-6b": ("mistral", tekken, {"tie_word_embeddings": False}, AutoModelForCausalLM),
    "mxbai-two-labels": ("qwen2", qwen, {"num_labels": 2}, AutoModelForSequenceClassification),
    "gemma-classifier": ("gemma", gemma, {"num_labels": 1}, AutoModelForSequenceClassification),
    "llama-classifier": ("llama", qwen, {"num_labels": 1}, AutoModelForSequenceClassification),
    "mistral-classifier": (
        "mistral",
        qwen,
        {"num_labels": 2, "sliding_window": 200},
        AutoModelForSequenceClassification,
    ),
}
# As a checkpoint says it that was saved from the published one.
PUBLISHED_AS = {
    "qwen3": "Qwen/Qwen3-Reranker-0.6B",
    "qwen3-untied": "Qwen/Qwen3-Reranker-8B",
    "qwen3-classifier": "Qwen/Qwen3-Reranker-0.6B",
    "gemma": "BAAI/bge-reranker-v2-gemma",
    "gemma-classifier": "BAAI/bge-reranker-v2-gemma",
    "mxbai": "mixedbread-ai/mxbai-rerank-base-v2",
    "mxbai-two-labels": "mixedbread-ai/mxbai-rerank-base-v2",
    "llama-classifier": "mixedbread-ai/mxbai-rerank-base-v2",
    "mistral-classifier": "mixedbread-ai/mxbai-rerank-base-v2",
    "zerank": "zeroentropy/zerank-2-reranker",
    "ctxl": "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b",
    "ctxl-6b": "ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b",
}


def save_language_model(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Save a random language model as `name` (see LANGUAGE_MODELS) is published, in `folder`."""
    model_type, build, changes, kind = LANGUAGE_MODELS[name]
    tokenizer = tokenizer or build()
    config = CONFIG_MAPPING[model_type](
        **{
            **SMALL_DECODER,
            **changes,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
    )
    torch.manual_seed(0)
    model = kind.from_config(config)
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_name_or_path": PUBLISHED_AS[name]}))
    return folder


def save_listwise(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **changes: int) -> Path:
    """Save a random listwise model as jina-reranker-v3 is published, with `changes` to its configuration."""
    tokenizer = tokenizer or qwen()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|embed_token|>", "<|rerank_token|>"]})
    config = CONFIG_MAPPING["qwen3"](
        **{**SMALL_DECODER, "max_position_embeddings": 16_384, "vocab_size": len(tokenizer), **changes}
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    spread_out(model)
    with torch.no_grad():
        model.model.norm.weight.normal_(1, 0.1)
    hidden = config.hidden_size
    model.save_pretrained(
        folder,
        state_dict=model.state_dict()
        | {
            "projector.0.weight": torch.randn(hidden // 2, hidden),
            "projector.2.weight": torch.randn(24, hidden // 2),
        },
    )
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    code = {"architectures": ["JinaForRanking"], "auto_map": {"AutoModel": "modeling.JinaForRanking"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | code))
    return folder
