"""`reranker-serve compare A B --data JUDGMENTS`: which of several models or servers ranks better, and how fast."""
