"""Checkpoints of published shapes with random weights, as a model folder that every peer loads.

Speed does not depend on the weights. `python -m benchmarks.shapes NAME FOLDER` writes one.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Of the logits of a few sample pairs, about as in published rerankers.
_LOGIT_DEVIATION = 3.0
_SAMPLE = re.findall(r"\w+", "the light of the sun makes sugar in a leaf and a market fell on monday because of water")


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's dimensions; `attention` is heads times head size, `kv` that of keys and values.

    `vocabulary` is the published number of rows, if the tokenizer has fewer entries. `layout` is that of the folder:
    a classifier of XLM-RoBERTa or BERT, or ettin-reranker's ModernBERT with a head in modules of its own.
    """

    name: str
    kind: Literal["cross_encoder", "embedding", "yes_no"]
    tokenizer: str | None
    layers: int
    hidden: int
    intermediate: int
    attention: int
    kv: int
    vocabulary: int = 0
    gated: bool = False
    max_length: int = 512
    layout: Literal["xlm-roberta", "bert", "ettin"] = "xlm-roberta"
    head_size: int = 64

    @property
    def layer_parameters(self) -> int:
        """Of the matrices of all layers, embeddings excluded."""
        attention = self.hidden * (2 * self.attention + 2 * self.kv)
        return self.layers * (attention + (3 if self.gated else 2) * self.hidden * self.intermediate)

    def operations(self, tokens: int) -> float:
        """One sequence through the layers: `2 P L + 4 n L^2 H`."""
        return self.operations_behind(0, tokens)

    def operations_behind(self, prefix: int, tokens: int) -> float:
        """`tokens` of a sequence's own, which attend to a prefix that was computed before, and to themselves."""
        attended = tokens * (prefix + tokens)
        return 2.0 * self.layer_parameters * tokens + 4.0 * self.layers * attended * self.attention


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("xlm-r-base", "cross_encoder", "xlm-roberta-base-reconstructed", 12, 768, 3072, 768, 768, 250_002),
        Shape("xlm-r-large", "cross_encoder", "xlm-roberta-base-reconstructed", 24, 1024, 4096, 1024, 1024, 250_002),
        Shape(
            *("minilm-l6", "cross_encoder", "bert-base-uncased", 6, 384, 1536, 384, 384),
            layout="bert",
            head_size=32,
        ),
        Shape(
            *("ettin-17m", "cross_encoder", "modernbert-base", 7, 256, 384, 256, 256, 50_368),
            gated=True,
            layout="ettin",
        ),
        Shape(
            *("ettin-32m", "cross_encoder", "modernbert-base", 10, 384, 576, 384, 384, 50_368),
            gated=True,
            layout="ettin",
        ),
        Shape("demo", "embedding", None, 6, 384, 1536, 384, 384),
        Shape("qwen3-0.6b", "yes_no", "qwen3", 28, 1024, 3072, 2048, 1024, 151_936, gated=True, max_length=1024),
        Shape("qwen3-4b", "yes_no", "qwen3", 36, 2560, 9728, 4096, 1024, 151_936, gated=True, max_length=1024),
        # For trying the tools out: nothing can be learned from their numbers.
        Shape("tiny", "cross_encoder", "xlm-roberta-base-reconstructed", 2, 64, 128, 64, 64),
        Shape("tiny-yes-no", "yes_no", "qwen3", 2, 64, 128, 128, 128, gated=True, max_length=1024),
    )
}


def checkpoint(shape: Shape, work: Path, data: Path) -> Path:
    """The shape's model folder below `work`, made if it is not there yet."""
    import subprocess

    if shape.tokenizer is None:
        from reranker_serve.demo import demo_folder

        return demo_folder()
    folder = work / "shapes" / shape.name
    if not (folder / "done").exists():
        command = [sys.executable, "-m", "benchmarks.shapes", shape.name, str(folder)]
        # In a process of its own: this one stays small and without torch's threads.
        subprocess.run(command, check=True, env=os.environ | {"RR_TEST_DATA": str(data)})
    return folder


def save(shape: Shape, folder: Path, data: Path, device: str = "cpu", dtype: str = "float32") -> None:
    """Write the checkpoint of a shape that has a tokenizer, in `dtype`; the random numbers are made on `device`."""
    import torch
    from transformers import AutoTokenizer

    assert shape.tokenizer is not None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in (data / "tokenizers" / shape.tokenizer).iterdir():
        shutil.copyfile(file, folder / file.name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not (folder / "tokenizer.json").exists():
        tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    with torch.device(device):
        model = _build(shape, tokenizer).to(getattr(torch, dtype))
    model.eval()
    _spread_out(model)
    if shape.layout == "ettin":
        _save_modules(model, tokenizer, shape, folder)
    elif shape.kind == "cross_encoder":
        _scale_head(model, tokenizer)
    model.save_pretrained(folder)
    if shape.kind == "yes_no":
        _name_the_published(folder / "config.json")
    (folder / "done").touch()


def _build(shape: Shape, tokenizer: Any) -> Any:
    if shape.kind == "yes_no":
        return _yes_no(shape, tokenizer)
    if shape.layout == "ettin":
        return _modernbert(shape, tokenizer)
    return _bert(shape, tokenizer) if shape.layout == "bert" else _classifier(shape, tokenizer)


def _bert(shape: Shape, tokenizer: Any) -> Any:
    from transformers import AutoModelForSequenceClassification, BertConfig

    config = BertConfig(
        vocab_size=max(len(tokenizer), shape.vocabulary),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention // shape.head_size,
        intermediate_size=shape.intermediate,
        max_position_embeddings=512,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForSequenceClassification.from_config(config)


def _modernbert(shape: Shape, tokenizer: Any) -> Any:
    from transformers import AutoModel, ModernBertConfig

    config = ModernBertConfig(
        vocab_size=max(len(tokenizer), shape.vocabulary),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention // shape.head_size,
        intermediate_size=shape.intermediate,
        max_position_embeddings=7999,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    return AutoModel.from_config(config)


def _save_modules(model: Any, tokenizer: Any, shape: Shape, folder: Path) -> None:
    """The head behind the encoder, as sentence-transformers writes it."""
    from tempfile import TemporaryDirectory

    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Pooling
    from torch import nn

    with TemporaryDirectory() as encoder:
        model.save_pretrained(encoder)
        tokenizer.save_pretrained(encoder)
        modules = [
            Transformer(encoder, transformer_task="feature-extraction", max_seq_length=shape.max_length),
            Pooling(shape.hidden, pooling_mode="cls"),
            Dense(shape.hidden, shape.hidden, bias=False, activation_function=nn.GELU()),
            LayerNorm(shape.hidden),
            Dense(shape.hidden, 1, activation_function=nn.Identity(), module_output_name="scores"),
        ]
        CrossEncoder(modules=modules, activation_fn=nn.Identity()).save_pretrained(str(folder))


def _classifier(shape: Shape, tokenizer: Any) -> Any:
    from transformers import AutoModelForSequenceClassification, XLMRobertaConfig

    config = XLMRobertaConfig(  # type: ignore[call-arg]
        vocab_size=max(len(tokenizer), shape.vocabulary),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(1, shape.attention // 64),
        intermediate_size=shape.intermediate,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForSequenceClassification.from_config(config)


def _yes_no(shape: Shape, tokenizer: Any) -> Any:
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=max(len(tokenizer), shape.vocabulary),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention // 128,
        num_key_value_heads=shape.kv // 128,
        head_dim=128,
        intermediate_size=shape.intermediate,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config)


def _name_the_published(config: Path) -> None:
    """Nothing else tells the prompt of a language model that has not the exact shape of a published one."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": "Qwen/Qwen3-Reranker-0.6B"}))


def _spread_out(model: Any) -> None:
    """Matrices that keep the size of what passes, so that every layer matters to the score."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(0, 1 / math.sqrt(module.in_features))
        embeddings = model.get_input_embeddings().weight
        embeddings.normal_(0, 1 / math.sqrt(embeddings.shape[1]))


def _scale_head(model: Any, tokenizer: Any) -> None:
    """Give the logits of sample pairs a mean of 0 and the usual spread, so that differences mean something."""
    import torch

    generator = torch.Generator().manual_seed(0)
    words = [[_SAMPLE[int(i)] for i in torch.randint(len(_SAMPLE), (40,), generator=generator)] for _ in range(16)]
    encoded = tokenizer([" ".join(text[:8]) for text in words], [" ".join(text[8:]) for text in words], padding=True)
    with torch.inference_mode():
        ids, mask = (torch.tensor(encoded[name], device=model.device) for name in ("input_ids", "attention_mask"))
        logits = model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
    with torch.no_grad():
        head = getattr(model.classifier, "out_proj", model.classifier)
        factor = _LOGIT_DEVIATION / logits.std()
        head.weight.mul_(factor)
        head.bias.fill_(float(-logits.mean() * factor))


if __name__ == "__main__":
    save(SHAPES[sys.argv[1]], Path(sys.argv[2]), Path(os.environ["RR_TEST_DATA"]))
