"""What computing the query once is worth: our yes/no models against the published recipe, in one run.

    RR_TEST_DATA=FOLDER python -m benchmarks.shared_prefix [--layers 28] [--rounds 5] [--json FILE]

A model of Qwen3-Reranker-0.6B's shape with random weights and the real tokenizer
(FOLDER/tokenizers/qwen3), 32 documents of about 150 tokens behind a prefix of about 120. Each
contestant has a process of its own, as it has in use; they take turns within one run, and
ratios are medians over the rounds. Needs the development requirements.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.cross_encoder import CrossEncoder
from sentence_transformers.cross_encoder.modules import LogitScore, Transformer
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from reranker_serve.environment import load_settings
from reranker_serve.families.prompts import QWEN3_RERANKER
from reranker_serve.families.yes_no import YesNo
from reranker_serve.loader import load
from reranker_serve.types import EncodedItem, Scorer

Scores = NDArray[np.float32]
DOCUMENTS, DOCUMENT_TOKENS, PREFIX_TOKENS = 32, 150, 120


def save_model(folder: Path, layers: int) -> None:
    """Random weights in the published layout, in bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["RR_TEST_DATA"]) / "tokenizers" / "qwen3")
    config = Qwen3Config(
        vocab_size=151_669,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts(folder: Path) -> tuple[str, list[str]]:
    """A query and documents of the wanted lengths in tokens, of varied words."""
    words = [
        f"{a}{b}" for a in ("light", "water", "leaf", "market", "bread", "whale") for b in ("", "s", "ing", "less")
    ]
    source = random.Random(0)
    family = YesNo(folder, QWEN3_RERANKER, 4096)

    def length(query: str, document: str) -> tuple[int, int]:
        item = family.encode(query, [document], max_length=4096, instruction=None).items[0]
        assert item.prefix is not None
        return len(item.prefix), len(item)

    def grow(wanted: int, measure: Callable[[str], int]) -> str:
        text = source.choice(words)
        while measure(text) < wanted:
            text += " " + source.choice(words)
        return text

    query = grow(PREFIX_TOKENS, lambda text: length(text, "a")[0])
    lengths = [int(source.gauss(DOCUMENT_TOKENS, 20)) for _ in range(DOCUMENTS)]
    return query, [grow(wanted, lambda text: length("a", text)[1]) for wanted in lengths]


class Ours:
    """The server's own scorer, with the shared prefix or with every prompt written out."""

    def __init__(self, scorer: Scorer, shared: bool) -> None:
        self._scorer = scorer
        self._shared = shared

    def __call__(self, query: str, documents: list[str]) -> Scores:
        family, backend = self._scorer.family, self._scorer.backend
        items = family.encode(query, documents, max_length=4096, instruction=None).items
        if not self._shared:
            items = tuple(_written_out(item) for item in items)
        rows, start = [], 0
        while start < len(items):
            stop, tokens = start + 1, len(items[start])
            while stop < len(items) and tokens + len(items[stop]) <= (backend.batch_token_cap or 1 << 30):
                tokens += len(items[stop])
                stop += 1
            rows.append(backend.forward(items[start:stop]))
            start = stop
        return family.combine(np.concatenate(rows))


def _written_out(item: EncodedItem) -> EncodedItem:
    assert item.prefix is not None
    ids = np.concatenate([item.prefix, item.ids])
    return replace(item, ids=ids, second_segment=len(ids), prefix=None)


class Recipe:
    """The published recipe in transformers: left padding, in one batch; `keep` logits a sequence (0: all)."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._family = YesNo(folder, QWEN3_RERANKER, 4096)
        self._keep = keep

    @torch.inference_mode()
    def __call__(self, query: str, documents: list[str]) -> Scores:
        items = self._family.encode(query, documents, max_length=4096, instruction=None).items
        ids = [_written_out(item).ids.tolist() for item in items]
        inputs = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        logits = self._model(**inputs, logits_to_keep=self._keep).logits[:, -1]
        yes, no = (self._tokenizer.convert_tokens_to_ids(answer) for answer in QWEN3_RERANKER.answers)
        return (logits[:, yes] - logits[:, no]).float().numpy()


class SentenceTransformers:
    """sentence-transformers' CrossEncoder on the same checkpoint, its LogitScore on top."""

    def __init__(self, folder: Path) -> None:
        transformer = Transformer(
            str(folder), transformer_task="text-generation", model_kwargs={"dtype": torch.bfloat16}
        )
        before, after = "".join(QWEN3_RERANKER.before), "".join(QWEN3_RERANKER.after)
        head, tail = before.split("{query}")
        head = head.replace("{instruction}", str(QWEN3_RERANKER.instruction))
        transformer.tokenizer.chat_template = (
            "{{ "
            + json.dumps(head)
            + " + (messages | selectattr('role', 'eq', 'query') | first)['content'] + "
            + json.dumps(tail + QWEN3_RERANKER.document.replace("{document}", ""))
            + " + (messages | selectattr('role', 'eq', 'document') | first)['content'] + "
            + json.dumps(after)
            + " }}"
        )
        yes, no = (transformer.tokenizer.convert_tokens_to_ids(answer) for answer in QWEN3_RERANKER.answers)
        self._model = CrossEncoder(modules=[transformer, LogitScore(yes, no)], device="cpu")

    def __call__(self, query: str, documents: list[str]) -> Scores:
        pairs = [(query, document) for document in documents]
        return np.asarray(
            self._model.predict(
                pairs, batch_size=DOCUMENTS, activation_fn=torch.nn.Identity(), show_progress_bar=False
            ),
            dtype=np.float32,
        )


Contestant = Callable[[str, list[str]], Scores]
CONTESTANTS: dict[str, Callable[[Path], Contestant]] = {
    "ours, prefix shared": lambda folder: Ours(load_ours(folder), shared=True),
    "ours, packed only": lambda folder: Ours(load_ours(folder), shared=False),
    "transformers, last logit": lambda folder: Recipe(folder, keep=1),
    "transformers, all logits": lambda folder: Recipe(folder, keep=0),
    "sentence-transformers": lambda folder: SentenceTransformers(folder),
}


def load_ours(folder: Path) -> Scorer:
    environ = {"RERANKER_MODEL_PATH": str(folder), "RERANKER_MAX_LENGTH": "4096"}
    environ["RERANKER_PROMPT"] = QWEN3_RERANKER.name
    return load(load_settings(environ, env_file=Path("/nonexistent"))[0])


def compete(name: str, folder: Path, query: str, documents: list[str], turns: Connection) -> None:
    """A contestant's process: score once for every message, answer seconds and scores, end at the end of messages."""
    score = CONTESTANTS[name](folder)
    score(query, documents)  # warm
    turns.send("ready")
    while turns.recv():
        start = time.perf_counter()
        scores = score(query, documents)
        turns.send((time.perf_counter() - start, scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28, help="fewer for a quick try (28: the real shape)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, arguments.layers)
        query, documents = texts(folder)
        report(run(folder, query, documents, arguments), arguments)


def run(
    folder: Path, query: str, documents: list[str], arguments: argparse.Namespace
) -> dict[str, tuple[list[float], Scores]]:
    """Seconds of each round and the scores; a contestant after the other in every round."""
    context = get_context("spawn")
    turns, processes = {}, []
    for name in arguments.contestants:
        turns[name], theirs = context.Pipe()
        processes.append(context.Process(target=compete, args=(name, folder, query, documents, theirs), daemon=True))
        processes[-1].start()
        assert turns[name].recv() == "ready"
    results: dict[str, tuple[list[float], Scores]] = {}
    for _ in range(arguments.rounds):
        for name, turn in turns.items():
            turn.send(True)
            seconds, scores = turn.recv()
            results.setdefault(name, ([], scores))[0].append(seconds)
    for turn in turns.values():
        turn.send(False)
    for process in processes:
        process.join()
    return results


def report(results: dict[str, tuple[list[float], Scores]], arguments: argparse.Namespace) -> None:
    base, reference = next(iter(results.values()))
    rows = {}
    for name, (seconds, scores) in results.items():
        median = statistics.median(seconds)
        rows[name] = {
            "seconds": round(median, 3),
            "documents_per_second": round(DOCUMENTS / median, 2),
            "first_is_faster_by": round(statistics.median(s / b for s, b in zip(seconds, base, strict=True)), 2),
            "largest_score_difference": round(float(np.abs(scores - reference).max()), 4),
        }
    print(f"{'':<26} seconds  documents/s  first is faster by  score difference to first")
    for name, row in rows.items():
        print(
            f"{name:<26} {row['seconds']:7.3f} {row['documents_per_second']:12.2f} {row['first_is_faster_by']:19.2f}"
            f" {row['largest_score_difference']:26.4f}"
        )
    if arguments.json:
        about = {"layers": arguments.layers, "rounds": arguments.rounds, "torch": torch.__version__}
        about |= {"threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
        arguments.json.write_text(json.dumps({"about": about, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
