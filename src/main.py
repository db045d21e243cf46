import os

# As `reranker-serve` does: another program's folder of metrics may be gone, or hold its counts.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from reranker_serve.server import application

app = application()
