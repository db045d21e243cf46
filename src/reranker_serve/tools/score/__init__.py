"""`reranker-serve score INPUT OUTPUT`: files of any size, scored without a server."""
