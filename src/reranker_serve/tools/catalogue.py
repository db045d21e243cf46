"""The models that people use, and what is known of each: the table of `docs/models.md`, and who is who for `inspect`.

What decides how a folder is served are its files (`families/registry.py`); nothing here does. Sizes, languages and
licences are as the publishers state them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Models of one publisher that differ in size alone; `kind` is the registry's name of what they are.

    `model_type` is transformers' name of the architecture. `longest` counts tokens of query and document together.
    `parity` is the test that compares such a checkpoint with its own library.
    """

    ids: tuple[str, ...]
    kind: str
    model_type: str
    parameters: str
    languages: str
    longest: int
    licence: str
    parity: str
    commercial: bool = True


_CROSS = "tests/families/test_cross_encoder_parity.py"
_LISTWISE = "tests/families/test_listwise_parity.py"
_YES_NO = "tests/families/test_yes_no_parity.py"
_MODULAR = "tests/families/test_modular_cross_encoder.py"
_BIDIRECTIONAL = "tests/families/test_bidirectional.py"
_LATE = "tests/families/test_late_interaction_parity.py"

KNOWN_MODELS: tuple[KnownModel, ...] = (
    KnownModel(
        (
            "cross-encoder/ms-marco-MiniLM-L6-v2",
            "cross-encoder/ms-marco-MiniLM-L12-v2",
            "cross-encoder/ms-marco-MiniLM-L4-v2",
            "cross-encoder/ms-marco-MiniLM-L2-v2",
            "cross-encoder/ms-marco-TinyBERT-L2-v2",
        ),
        "cross-encoder",
        "bert",
        "23M; 33M, 19M, 16M, 4M",
        "English",
        512,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("BAAI/bge-reranker-v2-m3",),
        "cross-encoder",
        "xlm-roberta",
        "568M",
        "100 and more",
        8192,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("BAAI/bge-reranker-base", "BAAI/bge-reranker-large"),
        "cross-encoder",
        "xlm-roberta",
        "278M, 560M",
        "English, Chinese",
        512,
        "mit",
        _CROSS,
    ),
    KnownModel(
        ("Alibaba-NLP/gte-reranker-modernbert-base",),
        "cross-encoder",
        "modernbert",
        "149M",
        "English",
        8192,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("ibm-granite/granite-embedding-reranker-english-r2",),
        "cross-encoder",
        "modernbert",
        "149M",
        "English",
        8192,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        (
            "mixedbread-ai/mxbai-rerank-xsmall-v1",
            "mixedbread-ai/mxbai-rerank-base-v1",
            "mixedbread-ai/mxbai-rerank-large-v1",
        ),
        "cross-encoder",
        "deberta-v2",
        "71M, 184M, 435M",
        "English",
        512,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("cross-encoder/mmarco-mMiniLMv2-L12-H384-v1",),
        "cross-encoder",
        "xlm-roberta",
        "118M",
        "14",
        512,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("maidalun1020/bce-reranker-base_v1",),
        "cross-encoder",
        "xlm-roberta",
        "279M",
        "Chinese, English, Japanese, Korean",
        512,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("cl-nagoya/ruri-v3-reranker-310m",),
        "cross-encoder",
        "modernbert",
        "310M",
        "Japanese",
        8192,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("Alibaba-NLP/gte-multilingual-reranker-base",),
        "cross-encoder",
        "gte",
        "306M",
        "70 and more",
        8192,
        "apache-2.0",
        _CROSS,
    ),
    KnownModel(
        ("jinaai/jina-reranker-v2-base-multilingual",),
        "cross-encoder",
        "xlm-roberta",
        "278M",
        "many",
        1024,
        "cc-by-nc-4.0",
        _CROSS,
        commercial=False,
    ),
    KnownModel(
        (
            "cross-encoder/ettin-reranker-17m-v1",
            "cross-encoder/ettin-reranker-32m-v1",
            "cross-encoder/ettin-reranker-68m-v1",
            "cross-encoder/ettin-reranker-150m-v1",
            "cross-encoder/ettin-reranker-400m-v1",
            "cross-encoder/ettin-reranker-1b-v1",
        ),
        "modular cross-encoder",
        "modernbert",
        "17M, 32M, 68M, 150M, 400M, 1B",
        "English",
        7999,
        "apache-2.0",
        _MODULAR,
    ),
    KnownModel(
        ("Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-4B", "Qwen/Qwen3-Reranker-8B"),
        "language model",
        "qwen3",
        "0.6B, 4B, 8B",
        "100 and more",
        32768,
        "apache-2.0",
        _YES_NO,
    ),
    KnownModel(
        ("tomaarsen/Qwen3-Reranker-0.6B-seq-cls",),
        "converted language model",
        "qwen3",
        "0.6B",
        "100 and more",
        32768,
        "apache-2.0",
        _YES_NO,
    ),
    KnownModel(
        ("mixedbread-ai/mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-large-v2"),
        "language model",
        "qwen2",
        "0.5B, 1.5B",
        "100 and more",
        32768,
        "apache-2.0",
        _YES_NO,
    ),
    KnownModel(
        ("zeroentropy/zerank-2-reranker", "zeroentropy/zerank-1-reranker", "zeroentropy/zerank-1-small-reranker"),
        "language model",
        "qwen3",
        "4B, 4B, 1.7B",
        "many",
        32768,
        "cc-by-nc-4.0 or apache-2.0: see the card",
        _YES_NO,
        commercial=False,
    ),
    KnownModel(
        (
            "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b",
            "ContextualAI/ctxl-rerank-v2-instruct-multilingual-2b",
            "ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b",
        ),
        "language model",
        "qwen3",
        "1B, 2B, 6B",
        "many",
        32768,
        "cc-by-nc-sa-4.0",
        _YES_NO,
        commercial=False,
    ),
    KnownModel(
        ("nvidia/llama-nemotron-rerank-1b-v2", "nvidia/llama-nemotron-rerank-500m-v2"),
        "bidirectional language model",
        "llama",
        "1B, 500M",
        "many",
        8192,
        "NVIDIA Open Model, Llama 3.2",
        _BIDIRECTIONAL,
    ),
    KnownModel(
        ("BAAI/bge-reranker-v2-gemma",),
        "language model",
        "gemma",
        "2.5B",
        "many",
        8192,
        "gemma",
        _YES_NO,
    ),
    KnownModel(
        ("answerdotai/answerai-colbert-small-v1", "colbert-ir/colbertv2.0"),
        "late interaction model",
        "bert",
        "33M, 110M",
        "English",
        512,
        "apache-2.0, mit",
        _LATE,
    ),
    KnownModel(
        (
            "lightonai/GTE-ModernColBERT-v1",
            "lightonai/LateOn",
            "mixedbread-ai/mxbai-edge-colbert-v0-17m",
            "mixedbread-ai/mxbai-edge-colbert-v0-32m",
        ),
        "late interaction model",
        "modernbert",
        "149M, 149M, 17M, 32M",
        "English",
        8192,
        "apache-2.0",
        _LATE,
    ),
    KnownModel(
        ("lightonai/Reason-ModernColBERT",),
        "late interaction model",
        "modernbert",
        "149M",
        "English",
        8192,
        "cc-by-nc-4.0",
        _LATE,
        commercial=False,
    ),
    KnownModel(
        ("sentence-transformers/all-MiniLM-L6-v2",),
        "embedding model",
        "bert",
        "23M",
        "English",
        256,
        "apache-2.0",
        "tests/families/test_bi_encoder_parity.py",
    ),
    KnownModel(
        ("jinaai/jina-reranker-v3",),
        "listwise model",
        "qwen3",
        "0.6B",
        "many",
        131_072,
        "cc-by-nc-4.0",
        _LISTWISE,
        commercial=False,
    ),
)
