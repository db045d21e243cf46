"""The HTTP side: one file a dialect, the dialect table, auth, middleware, probes."""
