"""The options that every rerank API here takes, whichever vendor named them, and what they mean to the core."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from reranker_serve.types import Cut, RankedDocument, RerankRequest


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _truncate_word(value: object) -> object:
    """TEI and Voyage write a boolean; NIM, Pinecone and Cohere write which end goes, or NONE."""
    if isinstance(value, bool):
        return "end" if value else "none"
    word = _lower(value)
    return {"true": "end", "false": "none"}.get(word, word) if isinstance(word, str) else word


def _json_object(value: object) -> object:
    """Xinference's clients send `kwargs` as JSON in a string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}")
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON object, or one written as a string") from None


def _whole(value: object) -> object:
    """JSON's true is no number, though Python's is 1."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number, not true or false")
    if isinstance(value, float) and abs(value) > sys.maxsize:
        raise ValueError("is too large a number")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError("is too large a number")
    return value


Whole = Annotated[int, BeforeValidator(_whole, json_schema_input_type=int)]
Number = Annotated[float, BeforeValidator(_number, json_schema_input_type=float), Field(allow_inf_nan=False)]

Side = Annotated[
    Literal["left", "right"], BeforeValidator(_lower, json_schema_input_type=Literal["left", "right", "Left", "Right"])
]
Truncate = Annotated[
    Literal["end", "start", "none"],
    BeforeValidator(_truncate_word, json_schema_input_type=bool | Literal["END", "START", "NONE"]),
]


class Instructed(BaseModel):
    """An object of which only the instruction is read."""

    instruction: str | None = None


class Options(BaseModel):
    """What a caller may ask beside the query and the documents. Null means: not given."""

    model_config = ConfigDict(protected_namespaces=())

    model: str | None = Field(None, description="checked only in strict mode, where another name than ours is 404")
    instruction: str | None = Field(
        None,
        validation_alias=AliasChoices("instruction", "instruct"),
        description="what counts as relevant; an error on models that take none",
    )
    chat_template_kwargs: Instructed | None = Field(None, description="its `instruction` counts as `instruction`")
    max_length: Whole | None = Field(None, ge=1, description="narrows the server's limit of tokens of one pair")
    truncate_prompt_tokens: Whole | None = Field(None, ge=-1, description="as `max_length`; -1 is the server's limit")
    max_tokens_per_doc: Whole | None = Field(
        None,
        ge=0,
        validation_alias=AliasChoices("max_tokens_per_doc", "max_doc_length"),
        description="tokens of a document that are read at most; 0 is no limit but the model's",
    )
    max_tokens_per_query: Whole | None = Field(
        None,
        ge=0,
        validation_alias=AliasChoices("max_tokens_per_query", "max_query_length"),
        description="tokens of the query that are read at most; 0 is no limit but the model's",
    )
    truncation_side: Side | None = Field(
        None,
        validation_alias=AliasChoices("truncation_side", "truncation_direction"),
        description="which end a long document loses; `right` when not given",
    )
    truncate: Truncate | None = Field(
        None,
        validation_alias=AliasChoices("truncate", "truncation"),
        description="false or `NONE`: a text that does not fit is an error; `START`: it loses its beginning",
    )
    max_chunks_per_doc: Whole | None = Field(
        None,
        ge=1,
        description="cut a long document into up to so many overlapping chunks; the best one's score counts,"
        " and `chunks` of each result tells how many were read",
    )
    overlap_tokens: Whole | None = Field(
        None, ge=0, description="tokens that neighbouring chunks share; an eighth of a chunk when not given"
    )
    priority: Whole | None = Field(None, description="a lower number is computed earlier; 0 when not given")
    timeout_ms: Whole | None = Field(
        None, ge=1, description="answer within so many milliseconds or with 504; narrows the server's limit"
    )
    deadline_ms: Whole | None = Field(
        None,
        ge=1,
        description="answer after so many milliseconds at the latest, with the documents that are scored by then",
    )
    min_score: Number | None = Field(
        None,
        description="what scores below does not come back, `left_out` counts it; on the scale of the scores that come"
        " back; the server's own when not given",
    )
    min_probability: Number | None = Field(
        None, ge=0, le=1, description="the same for the `probability` of each result, where the server is calibrated"
    )
    use_activation: bool | None = Field(
        None,
        validation_alias=AliasChoices("use_activation", "activation", "softmax"),
        description="false: scores on the model's own scale, as with `raw_scores`",
    )
    raw_scores: bool | None = Field(None, description="true: scores on the model's own scale instead of 0 to 1")
    kwargs: Annotated[
        Instructed | None, BeforeValidator(_json_object, json_schema_input_type=str | dict[str, Any] | None)
    ] = Field(None, description="an object, or one written as JSON in a string; its `instruction` counts")


def core_request(
    options: Options, query: str, texts: tuple[str, ...], top_n: int | None = None, raw_scores: bool = False
) -> RerankRequest:
    """The core request that these options ask for; 0 and null of a limit are none."""
    limits = [limit for limit in (options.max_length, options.truncate_prompt_tokens) if limit not in (None, -1)]
    given = (options, options.chat_template_kwargs, options.kwargs)
    return RerankRequest(
        query=query,
        documents=texts,
        top_n=top_n or None,
        model=options.model,
        instruction=next((part.instruction for part in given if part and part.instruction), None),
        max_length=min((limit for limit in limits if limit is not None), default=None),
        raw_scores=raw_scores or bool(options.raw_scores) or options.use_activation is False,
        truncate=options.truncate != "none",
        cut=Cut(
            side="left" if options.truncate == "start" else options.truncation_side or "right",
            query_tokens=options.max_tokens_per_query or None,
            document_tokens=options.max_tokens_per_doc or None,
            chunks=options.max_chunks_per_doc or 1,
            overlap=options.overlap_tokens,
        ),
        priority=options.priority or 0,
        timeout=_seconds(options.timeout_ms),
        deadline=_seconds(options.deadline_ms),
        min_score=options.min_score,
        min_probability=options.min_probability,
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def extras(options: Options, ranked: RankedDocument) -> dict[str, Any]:
    """What a result says in every API beside what is the vendor's own."""
    more: dict[str, Any] = {} if options.max_chunks_per_doc is None else {"chunks": ranked.chunks}
    if ranked.probability is not None:
        more["probability"] = ranked.probability
    if ranked.spans is not None:
        more["relevant_spans"] = [{"start": span.start, "end": span.end, "score": span.score} for span in ranked.spans]
    return more
