"""Backends: how the model is computed, on which device, in which precision."""
