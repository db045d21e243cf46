"""The torch runtime: a checkpoint becomes a model on a device, and runs batches packed or padded."""
