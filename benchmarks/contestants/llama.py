"""A classifier as a GGUF file for llama.cpp: `python -m benchmarks.contestants.llama FOLDER FILE`.

Its server ranks with BERT and XLM-RoBERTa; token types it always takes for 0. Names of tensors and keys:
https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_OTHERS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    # The pooler of BERT is what XLM-RoBERTa calls the dense layer of its head.
    "pooler.dense": "cls",
    "classifier.dense": "cls",
    "classifier.out_proj": "cls.output",
    "classifier": "cls.output",
}


def convert(folder: Path, file: Path) -> None:
    import gguf

    config = json.loads((folder / "config.json").read_text())
    roberta = config["model_type"] == "xlm-roberta"
    skipped = config["pad_token_id"] + 1 if roberta else 0
    writer = gguf.GGUFWriter(file, "bert")
    writer.add_name("measured")
    writer.add_context_length(config["max_position_embeddings"] - skipped)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["score"])
    writer.add_token_type_count(config["type_vocab_size"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    _vocabulary(writer, tokenizer, config["vocab_size"], roberta)
    gguf.SpecialVocab(folder, n_vocab=config["vocab_size"]).add_to_gguf(writer)
    for name, tensor in _tensors(folder, skipped):
        _add(writer, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(writer: Any, tokenizer: dict[str, Any], size: int, roberta: bool) -> None:
    import gguf

    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    vocabulary = tokenizer["model"]["vocab"]
    pieces = dict(enumerate(piece for piece, _ in vocabulary)) if roberta else {i: t for t, i in vocabulary.items()}
    pieces |= {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens, kinds = [], []
    for index in range(size):
        piece = pieces.get(index, f"[PAD{index}]")
        kind = gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL
        if roberta and index == tokenizer["model"]["unk_id"]:
            kind = gguf.TokenType.UNKNOWN
        if not roberta and kind == gguf.TokenType.NORMAL:
            piece = piece.removeprefix("##") if piece.startswith("##") else f"\u2581{piece}"
        tokens.append(piece)
        kinds.append(kind if index in pieces else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("t5" if roberta else "bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if roberta:
        writer.add_token_scores([vocabulary[i][1] if i < len(vocabulary) else -10000.0 for i in range(size)])
        writer.add_add_space_prefix(True)
        writer.add_remove_extra_whitespaces(True)
        for step in tokenizer["normalizer"].get("normalizers", [tokenizer["normalizer"]]):
            if "precompiled_charsmap" in step:
                writer.add_precompiled_charsmap(b64decode(step["precompiled_charsmap"]))


def _tensors(folder: Path, skipped: int) -> Iterator[tuple[str, Any]]:
    """By their names in a GGUF; positions that no token has are left out."""
    from safetensors.numpy import load_file

    for name, tensor in load_file(folder / "model.safetensors").items():
        own = name.removeprefix("bert.").removeprefix("roberta.")
        module, _, kind = own.rpartition(".")
        if module.startswith("encoder.layer."):
            _, _, number, part = module.split(".", 3)
            yield f"blk.{number}.{_LAYER[part]}.{kind}", tensor
        elif module in _OTHERS:
            yield f"{_OTHERS[module]}.{kind}", tensor[skipped:] if "position" in module else tensor


def _add(writer: Any, name: str, tensor: Any) -> None:
    """Matrices in bfloat16, as they are multiplied; the rest in float32."""
    import gguf

    products = tensor.ndim == 2 and not name.startswith(("position_embd", "token_types"))
    if products:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, tensor.astype("float32"))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
