"""What clients ask beside scores: the models there are, whether keys are needed, how many tokens a text has."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

from fastapi import FastAPI, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from reranker_serve.api.body import parse_object, read, validate
from reranker_serve.errors import InvalidRequest, RequestTooLarge, UnknownModel
from reranker_serve.lifecycle import Lifecycle
from reranker_serve.settings import Settings
from reranker_serve.types import Token

Texts = str | list[str]

# Every token becomes an object of the reply.
_MOST_CHARACTERS = 1_000_000


class TokenizeRequest(BaseModel):
    """Texts to tokenize: `inputs` as TEI names them, `prompt` as vLLM does, `content` as llama.cpp does."""

    model_config = ConfigDict(protected_namespaces=())

    inputs: Texts | None = Field(None, description="one text or several; the reply is a list of lists of tokens")
    prompt: str | None = Field(None, description="one text; the reply is `{count, max_model_len, tokens}`")
    content: str | None = Field(None, description="one text; the reply is `{tokens}`, without special tokens")
    add_special_tokens: bool = Field(True, description="with the tokens that the model puts around a text")


def add_side_routes(app: FastAPI, lifecycle: Lifecycle, settings: Settings) -> None:
    """Routes that real clients call before or beside reranking."""
    served = Path(openapi_examples={"The one that is served": {"value": settings.served_name}})

    @app.get("/models", include_in_schema=False)
    @app.get("/v1/models", tags=["Models"], operation_id="models")
    async def models() -> dict[str, Any]:
        """The one model of this server, in the shape of OpenAI's list."""
        return {"object": "list", "data": [_model(settings)]}

    @app.get("/v1/models/{model}", tags=["Models"], operation_id="model")
    @app.get("/v1/models/{model:path}", include_in_schema=False)
    async def one_model(model: str = served) -> dict[str, Any]:
        """The one model of this server, by whatever name it is asked for unless the server is strict."""
        if settings.strict_model and model != settings.served_name:
            raise UnknownModel(f"model '{model}' is not served here; this server has '{settings.served_name}'")
        return _model(settings)

    @app.get("/v1/cluster/auth", tags=["Models"], operation_id="auth")
    async def auth() -> dict[str, bool]:
        """Whether a key is needed; Xinference's client sends its key only then."""
        return {"auth": settings.needs_key}

    @app.post(
        "/tokenize",
        tags=["Models"],
        operation_id="tokenize",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": TokenizeRequest.model_json_schema(),
                        "example": {"inputs": ["How do plants make food?"]},
                    }
                },
            }
        },
    )
    async def tokenize(request: Request) -> Response:
        """The tokens of each text, in the shape of TEI, vLLM or llama.cpp."""
        raw = await read(request)
        body = await asyncio.to_thread(lambda: validate(parse_object(raw), TokenizeRequest))
        texts = _texts(body)
        reranker = lifecycle.serving()
        tokens = await reranker.tokenize(texts, body.add_special_tokens and body.content is None)
        longest = reranker.scorer.family.max_length_bounds[1]
        content = await asyncio.to_thread(
            lambda: json.dumps(_reply(body, tokens, longest), ensure_ascii=False).encode()
        )
        return Response(content, media_type="application/json")


def _texts(body: TokenizeRequest) -> list[str]:
    given = next((texts for texts in (body.inputs, body.prompt, body.content) if texts is not None), None)
    if given is None:
        raise InvalidRequest("inputs is required: one text or a list of texts", "inputs")
    texts = [given] if isinstance(given, str) else given
    characters = sum(map(len, texts))
    if characters > _MOST_CHARACTERS:
        raise RequestTooLarge(f"{characters} characters, at most {_MOST_CHARACTERS} are tokenized at a time")
    return texts


def _reply(body: TokenizeRequest, tokens: list[list[Token]], longest: int) -> Any:
    if body.inputs is not None:
        return [[dataclasses.asdict(token) for token in text] for text in tokens]
    ids = [token.id for token in tokens[0]]
    return {"count": len(ids), "max_model_len": longest, "tokens": ids} if body.prompt is not None else {"tokens": ids}


def _model(settings: Settings) -> dict[str, Any]:
    return {
        "id": settings.served_name,
        "object": "model",
        "owned_by": "reranker-serve",
        "model_type": "rerank",
        "model_name": settings.served_name,
    }
