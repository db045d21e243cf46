"""The engine: jobs, the pure scheduler that orders them, and the thread that owns the model."""
