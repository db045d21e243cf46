"""Which documents are relevant to which queries: read from any usual file, and what is computed from it."""
