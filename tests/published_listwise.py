"""jina-reranker-v3's `rerank`, written out with plain transformers and numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Model

BLOCK = 125
QUERY_TOKENS = 512
DOCUMENT_TOKENS = 2048
DOCUMENT_MARKER, QUERY_MARKER = "<|embed_token|>", "<|rerank_token|>"


def prompt(query: str, documents: Sequence[str], instruction: str | None = None) -> str:
    """https://huggingface.co/jinaai/jina-reranker-v3, modeling.py."""
    query, *documents = (text.replace(DOCUMENT_MARKER, "").replace(QUERY_MARKER, "") for text in (query, *documents))
    system = (
        "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based on how"
        " relevant they are to the query. If the query is a question, how relevant a passage is depends on how well it"
        " answers the question. If not, try to analyze the intent of the query and assess how well each passage"
        " satisfies the intent. If an instruction is provided, you should follow the instruction when determining the"
        " ranking.<|im_end|>\n<|im_start|>user\n"
    )
    asked = (
        f"I will provide you with {len(documents)} passages, each indicated by a numerical identifier. Rank the"
        f" passages based on their relevance to query: {query}\n"
    )
    if instruction:
        asked += f"<instruct>\n{instruction}\n</instruct>\n"
    passages = [
        f'<passage id="{number}">\n{document}{DOCUMENT_MARKER}\n</passage>' for number, document in enumerate(documents)
    ]
    asked += "\n".join(passages) + f"\n<query>\n{query}{QUERY_MARKER}\n</query>"
    return f"{system}{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def shortened(tokenizer: PreTrainedTokenizerFast, text: str, most: int) -> tuple[str, int]:
    """A text of at most so many tokens, and how many they are."""
    ids = tokenizer(text, truncation=True, max_length=most)["input_ids"]
    return (tokenizer.decode(ids) if len(ids) >= most else text), len(ids)


def blocks(
    tokenizer: PreTrainedTokenizerFast, query: str, documents: Sequence[str], positions: int, most: int
) -> tuple[str, list[list[str]]]:
    """The query and the documents of each forward pass."""
    query, asked = shortened(tokenizer, query, QUERY_TOKENS)
    found, block, left = [], [], positions - 2 * asked
    for text in documents:
        text, length = shortened(tokenizer, text, most)
        block.append(text)
        left -= length
        if len(block) >= BLOCK or left <= most:
            found.append(block)
            block, left = [], positions - 2 * asked
    return query, [*found, block] if block else found


def cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    return left @ right / (np.linalg.norm(left, axis=-1) * np.linalg.norm(right))


class PublishedList:
    """The published computation in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = Qwen3Model.from_pretrained(folder, dtype=torch.float32).eval()
        tensors = load_file(folder / "model.safetensors")
        self._first, self._second = tensors["projector.0.weight"], tensors["projector.2.weight"]
        self._markers = self.tokenizer.convert_tokens_to_ids([DOCUMENT_MARKER, QUERY_MARKER])
        self.passes = 0

    def scores(
        self, query: str, documents: Sequence[str], instruction: str | None = None, most: int = DOCUMENT_TOKENS
    ) -> NDArray[np.float32]:
        query, parts = blocks(self.tokenizer, query, documents, self._model.config.max_position_embeddings, most)
        self.passes = len(parts)
        vectors = [self._vectors(prompt(query, part, instruction)) for part in parts]
        weights = [((1 + cosine(found, asked)) / 2).max() for found, asked in vectors]
        fused = np.average(np.array([asked for _, asked in vectors]), axis=0, weights=weights)
        return cosine(np.concatenate([found for found, _ in vectors]), fused)

    @torch.inference_mode()
    def _vectors(self, text: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the documents, [documents, width], and the query, [width]."""
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
        hidden = self._model(ids).last_hidden_state[0].numpy()
        projected = np.maximum(hidden @ self._first.T, 0) @ self._second.T
        documents, query = (projected[ids[0].numpy() == marker] for marker in self._markers)
        assert len(query) == 1
        return documents, query[0]
