"""Side-by-side measurements against peers; see docs/performance.md for how to run them."""
