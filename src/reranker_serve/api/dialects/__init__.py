"""One file a dialect, and `table.py`, which has them all."""
