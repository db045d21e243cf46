"""Writes `api/examples/*.json`: sends the requests to the demo model and records its replies.

python -m tests.api.record_examples
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.app import create_app
from reranker_serve.demo import MODEL_NAME, demo_folder
from reranker_serve.loader import load
from tests.conftest import fake_settings

FOLDER = Path(__file__).parents[2] / "src" / "reranker_serve" / "api" / "examples"
QUERY = "How do plants make food?"
TEXTS = ["The stock market fell on Monday.", "Photosynthesis turns sunlight into sugar."]
OBJECTS = [{"text": text} for text in TEXTS]
PAGES = [{"title": "Markets", "body": TEXTS[0]}, {"title": "Leaves", "body": TEXTS[1]}]
COHERE = {"model": "rerank-v3.5", "query": QUERY, "documents": TEXTS, "top_n": 1}
VLLM = {"model": "BAAI/bge-reranker-v2-m3", "query": QUERY, "documents": TEXTS}

# By dialect: requests by what they show. The first one's reply is recorded.
REQUESTS: dict[str, dict[str, dict[str, Any]]] = {
    "native": {
        "Strings": {"query": QUERY, "documents": TEXTS, "top_n": 1},
        "Objects ranked by two fields": {"query": QUERY, "documents": PAGES, "rank_fields": ["title", "body"]},
        "A long document in chunks": {"query": QUERY, "documents": TEXTS, "max_length": 16, "max_chunks_per_doc": 4},
    },
    "cohere_v1": {
        "Strings": COHERE,
        "Objects": {**COHERE, "documents": PAGES, "rank_fields": ["title", "body"], "return_documents": True},
    },
    "cohere_v2": {"Strings": {**COHERE, "max_tokens_per_doc": 4096}},
    "jina": {
        "Objects": {"model": "jina-reranker-v2-base-multilingual", "query": QUERY, "documents": OBJECTS, "top_n": 1},
        "Strings": {"model": "jina-reranker-v2-base-multilingual", "query": QUERY, "documents": TEXTS},
    },
    "tei": {
        "Texts": {"query": QUERY, "texts": TEXTS, "return_text": True},
        "Raw scores": {"query": QUERY, "texts": TEXTS, "raw_scores": True, "truncate": True},
    },
    "tei_predict": {"A pair": {"inputs": [QUERY, TEXTS[1]]}, "Pairs": {"inputs": [[QUERY, text] for text in TEXTS]}},
    "hf": {"Texts": {"query": QUERY, "texts": TEXTS, "top_k": 1}},
    "voyage": {
        "Strings": {"model": "rerank-2.5", "query": QUERY, "documents": TEXTS, "top_k": 1, "return_documents": True},
    },
    "vllm": {
        "Strings": VLLM,
        "Truncated": {**VLLM, "truncate_prompt_tokens": 16, "truncation_side": "left", "use_activation": False},
    },
    "vllm_score": {
        "One query": {"model": "any", "queries": QUERY, "documents": TEXTS},
        "Pairs": {"model": "any", "text_1": [QUERY, "What happened on Monday?"], "text_2": [TEXTS[1], TEXTS[0]]},
    },
    "infinity": {
        "Strings": {"model": "any", "query": QUERY, "documents": TEXTS, "raw_scores": False, "return_documents": True},
    },
    "mixedbread": {
        "Strings": {
            "model": "mixedbread-ai/mxbai-rerank-large-v2",
            "query": QUERY,
            "input": TEXTS,
            "top_k": 1,
            "return_input": True,
        },
        "Objects": {"query": QUERY, "input": PAGES, "rank_fields": ["title", "body"]},
    },
    "pinecone": {
        "Objects": {
            "model": "bge-reranker-v2-m3",
            "query": QUERY,
            "documents": OBJECTS,
            "top_n": 1,
            "parameters": {"truncate": "END"},
        },
    },
    "nim": {
        "Passages": {
            "model": "nvidia/llama-3.2-nv-rerankqa-1b-v2",
            "query": {"text": QUERY},
            "passages": OBJECTS,
            "truncate": "END",
        },
    },
    "xinference": {
        "Strings": {"model": "any", "query": QUERY, "documents": TEXTS, "return_documents": True, "kwargs": "{}"},
    },
}


async def record() -> None:
    settings = fake_settings(model_path=str(demo_folder()), model_name=MODEL_NAME, device="cpu")
    app = create_app(settings, load(settings))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://demo") as http:
        for dialect in DIALECTS:
            requests = REQUESTS[dialect.name]
            first = next(iter(requests.values()))
            path = dialect.paths[0]
            await http.post(path, json=first)  # the first one is slow
            reply = await http.post(path, json=first)
            assert reply.status_code == 200, reply.text
            text = json.dumps({"requests": requests, "reply": reply.json()}, indent=2)
            (FOLDER / f"{dialect.name}.json").write_text(text + "\n")


if __name__ == "__main__":
    asyncio.run(record())
