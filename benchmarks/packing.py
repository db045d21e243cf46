"""What packing is worth, architecture by architecture: `python -m benchmarks.packing`.

Our own backend on a small shape with random weights and random token ids, the same documents of mixed lengths packed
and padded, in alternating rounds. Whether a model runs packed is what the backend itself chooses.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.machine import cores, facts
from benchmarks.peers import revision, tell
from benchmarks.workloads import mixed_length
from reranker_serve.backends import device as policy
from reranker_serve.backends.cpu.kept_memory import KeptMemory
from reranker_serve.backends.cpu.linear import pack_linear_layers
from reranker_serve.backends.cpu.products import choose_product
from reranker_serve.backends.torch.architectures import architecture_of
from reranker_serve.backends.torch.backend import TorchBackend
from reranker_serve.backends.torch.layers import Dense
from reranker_serve.backends.torch.machine import inspect_machine
from reranker_serve.backends.torch.padded import PaddedForward, PaddedLanguageModel
from reranker_serve.layers import DenseLayer
from reranker_serve.readouts import ClassifierReadout, HeadReadout, NextTokenReadout, Readout, VectorsReadout
from reranker_serve.types import EncodedItem, FloatArray, count_tokens

_HIDDEN, _VOCABULARY = 384, 8_000
_QUERY_TOKENS, _INSTRUCTION_TOKENS = 12, 120
_BLOCK_TOKENS = 2000  # of documents that a listwise model reads together
_BATCH_TOKENS = policy.cpu_batch_tokens(0)  # all shapes here are small
_CLASSIFIER = ClassifierReadout()
_SCORES = DenseLayer("head", _HIDDEN, 1, True, "identity")
_HEAD = HeadReadout("mean", (_SCORES,))
_TOKENS = VectorsReadout(128, (DenseLayer("head", _HIDDEN, 128, False, "identity"),))
_ENCODER = {"hidden_size": _HIDDEN, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 1536}
_DECODER = _ENCODER | {"num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 1024}
_SPECIAL = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
_TEXT = {"vocab_size": _VOCABULARY, "num_labels": 1, "pad_token_id": 0, **dict.fromkeys(_SPECIAL, 1)}


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of model. `model_type` is transformers'. `prefix`: an instruction and query before every document, which
    lies in memory once (`shared`) or in every sequence; `block`: a sequence holds many documents."""

    name: str
    model_type: str
    readout: Readout = _CLASSIFIER
    changes: tuple[tuple[str, Any], ...] = ()
    prefix: bool = False
    shared: bool = False
    block: bool = False


def _language_model(name: str, model_type: str) -> tuple[Case, Case]:
    whole = Case(f"{name}, prefix in every sequence", model_type, NextTokenReadout((7, 8)), prefix=True)
    return replace(whole, name=f"{name}, prefix shared", shared=True), whole


CASES = (
    Case("BERT", "bert"),
    Case("XLM-RoBERTa (bge, jina-reranker-v2)", "xlm-roberta"),
    Case("CamemBERT", "camembert"),
    Case("gte", "gte"),
    Case("ModernBERT", "modernbert"),
    Case("ModernBERT, head in modules (ettin)", "modernbert", _HEAD),
    Case("EuroBERT", "eurobert"),
    Case("Llama in both directions", "llama", _HEAD, (("is_causal", False),)),
    Case("late interaction, ModernBERT", "modernbert", _TOKENS),
    *_language_model("Qwen3", "qwen3"),
    *_language_model("Qwen2", "qwen2"),
    *_language_model("Gemma", "gemma"),
    *_language_model("Llama", "llama"),
    Case("listwise, Qwen3", "qwen3", _TOKENS, block=True),
    Case("DeBERTa-v2", "deberta-v2"),
    Case("MPNet", "mpnet"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Pairs a second, medians over the rounds; ratios packed to padded within a round (median, least, most).

    None packed where the model runs padded only. `difference` is the greatest between the numbers of both, to the
    largest of them.
    """

    case: str
    attention: str
    padded: float
    packed: float | None
    ratio: tuple[float, float, float] | None
    difference: float | None


def main() -> None:
    arguments = _parser().parse_args()
    os.environ.update(policy.apply_environment(os.environ, policy.environment_before_torch()))
    torch.set_num_threads(cores())
    memory = KeptMemory()
    rows = []
    for case in CASES:
        if not arguments.only or case.name.startswith(tuple(arguments.only)):
            tell(case.name)
            rows.append(measure(case, arguments.documents, arguments.rounds))
            memory.relieve()
    page = write(rows, arguments)
    print(page.read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description="Packed against padded.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--documents", type=int, default=32, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument(
        "--add", action="store_true", help="keep what the file has of other cases: a run may be made in pieces"
    )
    return parser


def measure(case: Case, documents: int, rounds: int) -> Row:
    model, layers = _model(case)
    served = TorchBackend(model, case.readout, "cpu", layers=layers)  # which packs where it can
    packed = served.attention.startswith("packed")
    both = {"packed": lambda items: np.concatenate(list(served.forward(items)))} if packed else {}
    both["padded"] = _padded(case)
    speeds: dict[str, list[float]] = {name: [] for name in both}
    numbers = {}
    with torch.inference_mode():
        for number in range(-1, rounds):
            batches = list(in_batches(_items(case, documents, random.Random(number))))
            for name in list(both)[:: 1 if number % 2 else -1]:
                start = time.perf_counter()
                numbers[name] = np.concatenate([both[name](batch).reshape(-1) for batch in batches])
                if number >= 0:  # the first is a warm-up
                    speeds[name].append(documents / (time.perf_counter() - start))
    if not packed:
        return Row(case.name, served.attention, median(speeds["padded"]), None, None, None)
    ratios = [mine / other for mine, other in zip(speeds["packed"], speeds["padded"], strict=True)]
    difference = np.abs(numbers["packed"] - numbers["padded"]).max() / np.abs(numbers["padded"]).max()
    return Row(
        *(case.name, served.attention, median(speeds["padded"]), median(speeds["packed"])),
        ratio=(median(ratios), min(ratios), max(ratios)),
        difference=float(difference),
    )


def _padded(case: Case) -> Callable[[Sequence[EncodedItem]], FloatArray]:
    """The same model with the same products, on the backend's other way."""
    model, layers = _model(case)
    product = choose_product("cpu", model.dtype, "none")
    if product is not None:
        pack_linear_layers(model.base_model, product)
    architecture, tokens = architecture_of(model.config), 2 * _BATCH_TOKENS
    if architecture is not None and architecture.causal:
        language_model = PaddedLanguageModel(model, architecture, case.readout, tokens, layers)
        return lambda items: language_model(items).numpy()
    encoder = PaddedForward(model, case.readout, tokens, layers)
    return lambda items: encoder(items).numpy()


def _model(case: Case) -> tuple[Any, nn.Module]:
    """In the precision that the server would choose here, and the layers behind it, which are in float32."""
    readout = case.readout
    causal = isinstance(readout, NextTokenReadout) or case.block
    shape = _DECODER if causal or case.model_type in ("llama", "eurobert") else _ENCODER
    positions = {"max_position_embeddings": 8192 if causal else 1024}
    config = CONFIG_MAPPING[case.model_type](**{**shape, **positions, **_TEXT, **dict(case.changes)})
    kinds = {ClassifierReadout: AutoModelForSequenceClassification, NextTokenReadout: AutoModelForCausalLM}
    torch.manual_seed(0)
    model = kinds.get(type(readout), AutoModel).from_config(config)
    declared = readout.layers if isinstance(readout, HeadReadout | VectorsReadout) else ()
    layers = nn.Sequential(*(Dense(layer) for layer in declared if isinstance(layer, DenseLayer)))
    dtype = torch.bfloat16 if inspect_machine().cpu_bfloat16 else torch.float32
    return model.to(dtype).eval().requires_grad_(False), layers.eval().requires_grad_(False)


def _items(case: Case, documents: int, source: random.Random) -> list[EncodedItem]:
    lengths = [mixed_length(source) for _ in range(documents)]
    if case.block:
        return [_item(case, sum(block), source) for block in _blocks(lengths)]
    if not case.prefix:
        return [_item(case, _QUERY_TOKENS + length, source) for length in lengths]
    prefix = _ids(_INSTRUCTION_TOKENS + _QUERY_TOKENS, source)
    items = [_item(case, length, source) for length in lengths]
    if case.shared:
        return [replace(item, prefix=prefix) for item in items]
    written = [np.concatenate([prefix, item.ids]) for item in items]
    return [EncodedItem(ids, len(ids)) for ids in written]


def _item(case: Case, length: int, source: random.Random) -> EncodedItem:
    """Vectors are read of every position, in a block of some."""
    step = length // 8 if case.block else 1
    read = np.arange(0, length, step, dtype=np.int32) if isinstance(case.readout, VectorsReadout) else None
    return EncodedItem(_ids(length, source), length, read=read)


def _ids(length: int, source: random.Random) -> Any:
    return np.array([source.randrange(10, _VOCABULARY) for _ in range(length)], dtype=np.int32)


def _blocks(lengths: Sequence[int]) -> Iterator[list[int]]:
    block: list[int] = []
    for length in lengths:
        if block and sum(block) + length > _BLOCK_TOKENS:
            yield block
            block = []
        block.append(length)
    yield block


def in_batches(items: Sequence[EncodedItem]) -> Iterator[list[EncodedItem]]:
    """As the engine cuts them: in order, of at most as many tokens as are worth computing together."""
    batch: list[EncodedItem] = []
    for item in items:
        if batch and count_tokens([*batch, item]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    yield batch


def write(rows: Sequence[Row], arguments: argparse.Namespace) -> Path:
    """`packing.json` and `packing.md`; returns the latter."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    data = arguments.output / "packing.json"
    told = {row.case: asdict(row) for row in rows}
    if arguments.add and data.exists():
        told = {row["case"]: row for row in json.loads(data.read_text())["rows"]} | told
    ordered = [told[case.name] for case in CASES if case.name in told]
    about = {"date": datetime.now(UTC).date().isoformat(), "revision": revision(), "torch": torch.__version__}
    about |= {"rounds": str(arguments.rounds), "documents": str(arguments.documents)} | facts()
    data.write_text(json.dumps({"about": about, "rows": ordered}, indent=1) + "\n")
    page = data.with_suffix(".md")
    page.write_text(markdown(ordered, about))
    return page


def markdown(rows: Sequence[dict[str, Any]], about: dict[str, str]) -> str:
    lines = ["# Packed and padded", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += ["| model | padded, pairs/s | packed, pairs/s | times faster (least-most) |", "|---|---|---|---|"]
    for row in rows:
        packed, ratio = "runs padded only", ""
        if row["packed"] is not None:
            packed, ratio = f"{row['packed']:.0f}", "{:.2f} ({:.2f}-{:.2f})".format(*row["ratio"])
        lines.append(f"| {row['case']} | {row['padded']:.0f} | {packed} | {ratio} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
