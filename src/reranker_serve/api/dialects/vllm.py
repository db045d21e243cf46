"""vLLM's rerank API. https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html

Documents come back unless the caller says otherwise; vLLM itself always returns them.
"""

from __future__ import annotations

from reranker_serve.api.dialect import Dialect, has_field
from reranker_serve.api.superset import EchoingRequest, from_core, to_core

DIALECT = Dialect(
    name="vllm",
    vendor="vLLM",
    summary="Rerank",
    paths=("/vllm/rerank", "/vllm/v1/rerank"),
    body=EchoingRequest,
    to_core=to_core,
    from_core=from_core,
    recognises=has_field(
        "truncate_prompt_tokens",
        "truncation_side",
        "max_tokens_per_query",
        "use_activation",
        "activation",
        "softmax",
        "chat_template_kwargs",
        "mm_processor_kwargs",
        "cache_salt",
    ),
    ignored=("user", "request_id", "mm_processor_kwargs", "cache_salt"),
)
