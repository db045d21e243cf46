"""reranker-serve: a fast, correct reranking server that speaks every rerank API."""

__version__ = "0.1.0"
