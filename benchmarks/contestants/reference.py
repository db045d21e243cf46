"""sentence-transformers as its users call it, and transformers written out plainly.

In float32 on a CPU; on a GPU in what `dtype` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import versions
from benchmarks.contestants.whole_model import has_modules
from benchmarks.pairs import Pair, Request, by_request, in_sorted_batches, pairs_of

_BATCH = 32
# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, "Transformers Usage"
_YES_NO_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_YES_NO_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class SentenceTransformers:
    """`CrossEncoder.predict` with its defaults; an embedding model as its `util.cos_sim`. All pairs in one call."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        threads: int,
        max_length: int,
        device: str = "cpu",
        dtype: str = "float32",
        batch: int = _BATCH,
    ) -> None:
        self._folder, self._kind, self._threads, self._max_length = folder, kind, threads, max_length
        self._device, self._dtype, self._batch = device, dtype, batch

    def prepare(self) -> dict[str, str]:
        import torch

        torch.set_num_threads(self._threads)
        if self._kind == "yes_no":
            raise RuntimeError("its CrossEncoder needs a chat template that this checkpoint does not have")
        from sentence_transformers import CrossEncoder, SentenceTransformer

        folder = str(self._folder)
        if self._kind == "embedding":
            self._embedder = SentenceTransformer(folder, device=self._device)
        else:
            self._encoder = CrossEncoder(
                folder, device=self._device, max_length=self._max_length, model_kwargs={"dtype": self._dtype}
            )
        return versions("sentence-transformers", "torch", "transformers") | {"precision": self._dtype}

    def tune(self, requests: Sequence[Request]) -> str:
        return ""

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        import torch

        if self._kind == "embedding":
            return [self._cosines(request) for request in requests]
        scores = self._encoder.predict(
            pairs_of(requests),
            batch_size=self._batch,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        ).tolist()
        return by_request(scores, requests)

    def _cosines(self, request: Request) -> list[float]:
        from sentence_transformers.util import cos_sim

        vectors = self._embedder.encode([request.query, *request.documents], show_progress_bar=False)
        cosines: list[float] = cos_sim(vectors[:1], vectors[1:])[0].tolist()
        return cosines


class SentenceTransformersBfloat16(SentenceTransformers):
    """As its users ask for it on a processor that multiplies in it."""

    def __init__(self, folder: Path, kind: str, threads: int, max_length: int, device: str = "cpu") -> None:
        super().__init__(folder, kind, threads, max_length, device, "bfloat16")


class Transformers:
    """The published recipe: padded batches of 32 in the order given."""

    batch = _BATCH

    def __init__(
        self, folder: Path, kind: str, threads: int, max_length: int, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        self._folder, self._kind, self._threads, self._max_length = folder, kind, threads, max_length
        self._device, self._dtype = device, dtype

    def prepare(self) -> dict[str, str]:
        import torch
        import transformers

        if self._kind == "cross_encoder" and has_modules(self._folder):
            raise RuntimeError("does not serve this shape: its classes do not read a head in modules of its own")
        torch.set_num_threads(self._threads)
        kinds = {
            "cross_encoder": transformers.AutoModelForSequenceClassification,
            "embedding": transformers.AutoModel,
            "yes_no": transformers.AutoModelForCausalLM,
        }
        left = {"padding_side": "left"} if self._kind == "yes_no" else {}
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self._folder, **left)
        dtype = getattr(torch, self._dtype)
        self._model: Any = kinds[self._kind].from_pretrained(self._folder, dtype=dtype).to(self._device).eval()
        return versions("torch", "transformers") | {"precision": self._dtype, "batch": str(self.batch)}

    def tune(self, requests: Sequence[Request]) -> str:
        return ""

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        import torch

        with torch.inference_mode():
            if self._kind == "embedding":
                return [self._cosines(request) for request in requests]
            work = self._classify if self._kind == "cross_encoder" else self._ask
            pairs = pairs_of(requests)
            batches = [pairs[start : start + self.batch] for start in range(0, len(pairs), self.batch)]
            return by_request([score for batch in batches for score in work(batch)], requests)

    def _classify(self, batch: list[Pair]) -> list[float]:
        queries, documents = [query for query, _ in batch], [document for _, document in batch]
        inputs = self._tokenizer(
            queries, documents, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        logits: list[float] = self._model(**inputs.to(self._device)).logits[:, 0].tolist()
        return logits

    def _ask(self, batch: list[Pair]) -> list[float]:
        prefix, suffix, yes, no = (
            self._tokenizer.encode(text, add_special_tokens=False)
            for text in (_YES_NO_PREFIX, _YES_NO_SUFFIX, "yes", "no")
        )
        room = self._max_length - len(prefix) - len(suffix)
        bodies = [f"<Instruct>: {_INSTRUCTION}\n<Query>: {query}\n<Document>: {text}" for query, text in batch]
        ids = self._tokenizer(bodies, add_special_tokens=False)["input_ids"]
        inputs = self._tokenizer.pad(
            {"input_ids": [[*prefix, *body[:room], *suffix] for body in ids]}, padding=True, return_tensors="pt"
        )
        logits = self._model(**inputs.to(self._device), logits_to_keep=1).logits[:, -1]
        difference: list[float] = (logits[:, yes[0]] - logits[:, no[0]]).tolist()
        return difference

    def _cosines(self, request: Request) -> list[float]:
        import torch

        texts, vectors = [request.query, *request.documents], []
        for start in range(0, len(texts), self.batch):
            inputs = self._tokenizer(
                texts[start : start + self.batch],
                padding=True,
                truncation=True,
                max_length=self._max_length,
                return_tensors="pt",
            )
            mask = inputs["attention_mask"][:, :, None]
            vectors.append((self._model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1))
        unit = torch.nn.functional.normalize(torch.cat(vectors), dim=1)
        cosines: list[float] = (unit[1:] @ unit[0]).tolist()
        return cosines


class _OneByOne(Transformers):
    batch = 1


class Exact:
    """One sequence at a time, no padding, float32: what score differences are taken from. Not a peer.

    By transformers; where the head is in modules of its own, by sentence-transformers, whose layout that is.
    """

    def __init__(self, folder: Path, kind: str, threads: int, max_length: int) -> None:
        self._work: SentenceTransformers | Transformers
        if has_modules(folder) and kind == "cross_encoder":
            self._work = SentenceTransformers(folder, kind, threads, max_length, batch=1)
        else:
            self._work = _OneByOne(folder, kind, threads, max_length)

    def prepare(self) -> dict[str, str]:
        return self._work.prepare()

    def tune(self, requests: Sequence[Request]) -> str:
        return ""

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        return self._work.score(requests)


class PairwiseRuntime:
    """A classifier in another runtime: padded batches of like length, of the size that was fastest."""

    kinds: tuple[str, ...] = ("cross_encoder",)
    sizes = (1, 4, 8, 32)

    def __init__(self, folder: Path, kind: str, threads: int, max_length: int) -> None:
        if kind not in self.kinds:
            raise RuntimeError("it is measured with classifiers only")
        self.folder, self.threads, self.max_length = folder, threads, max_length
        self.size = 4

    def load_tokenizer(self) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)

    def forward(self, inputs: dict[str, Any]) -> list[float]:
        """What `whole_model` takes, numpy int64 [batch, length] -> a logit each."""
        raise NotImplementedError

    def tune(self, requests: Sequence[Request]) -> str:
        """Each batch size in turn on the same pairs; the fastest stays."""
        import time

        seconds = {}
        self.score(requests)  # warm-up
        for size in self.sizes:
            self.size = size
            start = time.perf_counter()
            self.score(requests)
            seconds[size] = time.perf_counter() - start
        self.size = min(seconds, key=lambda size: seconds[size])
        return f"batch {self.size}"

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        return by_request(in_sorted_batches(pairs_of(requests), self.size, self.classify), requests)

    def classify(self, batch: list[Pair]) -> list[float]:
        """One padded batch -> a logit each."""
        queries, documents = [query for query, _ in batch], [document for _, document in batch]
        inputs = self._tokenizer(
            queries, documents, padding=True, truncation=True, max_length=self.max_length, return_tensors="np"
        )
        return self.forward(dict(inputs))
