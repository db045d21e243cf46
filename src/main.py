from reranker_serve.server import application

app = application()
