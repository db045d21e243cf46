"""Queries and documents as clients write them: strings, objects, a list of content parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from reranker_serve.errors import InvalidRequest

Document = str | dict[str, Any]


def _query_text(value: object) -> object:
    """A query may be an object too: `{"text": ...}` (NIM, Jina m0) or `{"content": ...}` (vLLM)."""
    if not isinstance(value, dict):
        return value
    text = _own_text(value)
    if text is None and (problem := _unread(value)):
        raise ValueError(problem)
    return value if text is None else text


def _listed(value: object) -> object:
    """One string or object is a list of one; but of vLLM's object with a list as `content` each part is a document."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, dict):
        return value
    content = value.get("content")
    if "text" in value or not isinstance(content, list):
        return [value]
    return [part["text"] if _is_text_part(part) else {"content": [part]} for part in content]


def _check_documents(value: object) -> object:
    """Says which document is wrong, before pydantic lists every union branch."""
    value = _listed(value)
    if not isinstance(value, list):
        raise ValueError("must be a list of strings or objects")
    for index, document in enumerate(value):
        if not isinstance(document, str | dict):
            raise ValueError(f"must be strings or objects, document {index} is neither")
    return value


Query = Annotated[str, BeforeValidator(_query_text, json_schema_input_type=Document)]
Documents = Annotated[
    list[Document], BeforeValidator(_check_documents, json_schema_input_type=Document | list[Document])
]


def document_texts(documents: Sequence[Document], rank_fields: Sequence[str] | None) -> tuple[str, ...]:
    """The text that is ranked of each document.

    The string itself; of an object its `rank_fields` joined by newlines, or else its `text` or `content`.
    """
    return tuple(
        document if isinstance(document, str) else _object_text(index, document, rank_fields)
        for index, document in enumerate(documents)
    )


def echo(document: Document, rank_fields: Sequence[str] | None) -> dict[str, Any]:
    """A document as replies show it: an object that has `text`, and its other fields as they came."""
    if isinstance(document, str):
        return {"text": document}
    if isinstance(document.get("text"), str):
        return document
    return {**document, "text": document_texts([document], rank_fields)[0]}


def _object_text(index: int, document: Mapping[str, Any], fields: Sequence[str] | None) -> str:
    if not fields:
        own = _own_text(document)
        if own is not None:
            return own
    parts = [document[field] for field in fields or ["text"] if document.get(field) is not None]
    if not parts and (problem := _unread(document)):
        raise InvalidRequest(f"document {index} {problem}", "documents")
    if not parts:
        named = ", ".join(fields or ["text"])
        raise InvalidRequest(f"document {index} has no {named}: add it, or name its fields in rank_fields", "documents")
    return "\n".join(part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts)


def _own_text(part: Mapping[str, Any]) -> str | None:
    """`text`, or `content` as a string or as a list of `{"type": "text", "text": ...}`; None if there is none."""
    for value in (part.get("text"), part.get("content")):
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and all(_is_text_part(piece) for piece in value):
            return "\n".join(piece["text"] for piece in value)
    return None


def _unread(part: Mapping[str, Any]) -> str | None:
    """What to say of an object whose `content` has a part that is no text."""
    content = part.get("content")
    kinds = (piece.get("type") for piece in content if isinstance(piece, dict)) if isinstance(content, list) else ()
    kind = next((kind for kind in kinds if isinstance(kind, str) and kind != "text"), None)
    return kind and f"holds {kind}, and only text is read"


def _is_text_part(piece: object) -> bool:
    return isinstance(piece, dict) and piece.get("type", "text") == "text" and isinstance(piece.get("text"), str)
