"""`reranker-serve bench URL`: a load generator for any rerank server."""
