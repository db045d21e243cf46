from reranker_serve.telemetry.folder import forget_foreign_folder

forget_foreign_folder()

from reranker_serve.server import application  # noqa: E402

app = application()
