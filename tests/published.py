"""The published computations of language-model rerankers, written out with plain transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from tests.checkpoints import LANGUAGE_MODELS, PUBLISHED_AS

# Of the whole prompt: the published recipes count it in different ways.
MAX_LENGTH = 1600
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
Ids = Callable[[PreTrainedTokenizerFast, str, str, str | None], list[int]]


def qwen_ids(tokenizer: PreTrainedTokenizerFast, query: str, document: str, instruction: str | None) -> list[int]:
    """https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, "Transformers Usage": the body is cut, then put in the frame."""
    prefix = tokenizer.encode(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
        ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
        add_special_tokens=False,
    )
    suffix = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", add_special_tokens=False)
    body = f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
    room = MAX_LENGTH - len(prefix) - len(suffix)
    ids: list[int] = tokenizer(body, add_special_tokens=False)["input_ids"]
    return [*prefix, *ids[:room], *suffix]


def gemma_ids(tokenizer: PreTrainedTokenizerFast, query: str, document: str, instruction: str | None) -> list[int]:
    """FlagEmbedding's reranker for decoder-only models; the limit counts the whole prompt here."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert instruction is None
    assert tokenizer.bos_token_id is not None
    question = encode(
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing"
        " a prediction of either 'Yes' or 'No'."
    )
    before = [tokenizer.bos_token_id, *encode(f"A: {query}"), *encode("\n")]
    after = [*encode("\n"), *question]
    return [*before, *encode(f"B: {document}")[: MAX_LENGTH - len(before) - len(after)], *after]


def mxbai_ids(tokenizer: PreTrainedTokenizerFast, query: str, document: str, instruction: str | None) -> list[int]:
    """mxbai-rerank's class MxbaiRerankV2; the limit counts the whole prompt here."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    asked = f"query: {query}" if instruction is None else f"instruction: {instruction}\nquery: {query}"
    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. For each"
        " query-document pair, carefully analyze the semantic relationship between them, then provide your binary"
        " relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
    )
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    before = [*encode(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"), *encode(asked), *encode("\n")]
    after = [*encode("\n"), *encode(task), *encode("<|im_end|>\n<|im_start|>assistant\n")]
    return [*before, *encode(f"document: {document}")[: MAX_LENGTH - len(before) - len(after)], *after]


def zerank_ids(tokenizer: PreTrainedTokenizerFast, query: str, document: str, instruction: str | None) -> list[int]:
    """https://huggingface.co/zeroentropy/zerank-2-reranker: a chat of the query as system and the document as user."""
    assert instruction is None
    tail = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    text = f"<|im_start|>system\n{query.strip()}<|im_end|>\n<|im_start|>user\n{document.strip()}"
    return [*tokenizer.encode(text, add_special_tokens=False)[: MAX_LENGTH - len(tail)], *tail]


def ctxl_ids(tokenizer: PreTrainedTokenizerFast, query: str, document: str, instruction: str | None) -> list[int]:
    """https://huggingface.co/ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b, cut in the document."""
    asked = query if instruction is None else f"{query} {instruction}"
    before = "Check whether a given document contains information helpful to answer the query.\n<Document> "
    begin = tokenizer.bos_token or ""  # which the template of the Mistral among them begins with
    ids: list[int] = tokenizer.encode(f"{begin}{before}{document}\n<Query> {asked} ??", add_special_tokens=False)
    tail = tokenizer.encode(f"\n<Query> {asked} ??", add_special_tokens=False)
    return ids if len(ids) <= MAX_LENGTH else [*ids[: MAX_LENGTH - len(tail)], *tail]


RECIPES: dict[str, Ids] = {
    "Qwen/Qwen3-Reranker-0.6B": qwen_ids,
    "Qwen/Qwen3-Reranker-8B": qwen_ids,
    "BAAI/bge-reranker-v2-gemma": gemma_ids,
    "mixedbread-ai/mxbai-rerank-base-v2": mxbai_ids,
    "zeroentropy/zerank-2-reranker": zerank_ids,
    "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b": ctxl_ids,
    "ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b": ctxl_ids,
}
ANSWERS = {qwen_ids: ("yes", "no"), gemma_ids: ("Yes",), mxbai_ids: ("1", "0"), zerank_ids: ("Yes",), ctxl_ids: ("!",)}


class Published:
    """The published computation: left padding, all logits, those of the answers at the last place."""

    def __init__(self, name: str, folder: Path) -> None:
        self._classifier = LANGUAGE_MODELS[name][3] is AutoModelForSequenceClassification
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        model = AutoModelForSequenceClassification if self._classifier else AutoModelForCausalLM
        self.model = model.from_pretrained(folder, dtype=torch.float32).eval()
        self.ids = RECIPES[PUBLISHED_AS[name]]

    @torch.inference_mode()
    def raw(self, query: str, documents: Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
        ids = [self.ids(self.tokenizer, query, document, instruction) for document in documents]
        inputs = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        if self._classifier:
            logits = self.model(**inputs).logits
            return np.asarray(logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0])
        logits = self.model(**inputs, logits_to_keep=1).logits
        answers = [self.tokenizer.encode(token, add_special_tokens=False) for token in ANSWERS[self.ids]]
        if self.ids is ctxl_ids:
            answers = [[0]]
        rows = [logits[:, -1, ids[0]] for ids in answers]
        if self.ids is qwen_ids:
            # As published: softmax over [no, yes], the probability of yes; its logit is what we compare.
            yes = torch.log_softmax(torch.stack([rows[1], rows[0]], dim=1).double(), dim=1)
            return np.asarray((yes[:, 1] - yes[:, 0]).float())
        return np.asarray(rows[0] - rows[1] if len(rows) > 1 else rows[0])
