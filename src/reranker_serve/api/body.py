"""Request bodies: bytes to JSON to a validated model, with one clear line when that fails."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from reranker_serve.errors import ClientGone, InvalidRequest, MalformedBody

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Documents may be echoed: what is read must be nested no deeper than can surely be written again.
_DEEPEST = 100
_TOO_DEEP = "the body is nested too deeply"

Body = TypeVar("Body", bound=BaseModel)


async def read(request: Request) -> bytes:
    """The whole body. Raises `ClientGone` if it stops coming."""
    try:
        return await request.body()
    except ClientDisconnect:
        raise ClientGone("the client went away") from None


def parse_object(raw: bytes) -> dict[str, Any]:
    """Raises `MalformedBody` unless `raw` is a JSON object."""
    data = parse_json(raw)
    if not isinstance(data, dict):
        raise MalformedBody("the body must be a JSON object")
    return data


def validate(data: Mapping[str, Any], model: type[Body]) -> Body:
    """Raises `InvalidRequest` naming the field and what is wrong with it. A null counts as not given."""
    given = {name: value for name, value in data.items() if value is not None}
    try:
        body = model.model_validate(given)
    except ValidationError as error:
        raise _first_problem(error) from None
    for name, value in body:
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise InvalidRequest(f"{name} is too large a number", name)
    return body


def parse_json(raw: bytes) -> Any:
    """Strict JSON, whatever the content type says.

    NaN, Infinity and numbers beyond the range of a float are refused. Lone surrogates, which
    clients that cut text in the middle of an emoji send, become U+FFFD.
    """
    if not raw.strip():
        raise MalformedBody("the body is empty: send a JSON object")
    try:
        text, surrogates = _decode(raw)
        data = json.loads(text, parse_float=_finite, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedBody(_TOO_DEEP) from None
    except ValueError as error:
        raise MalformedBody(f"the body is not valid JSON: {error}") from None
    if text.count("[") + text.count("{") > _DEEPEST and _too_deep(data):
        raise MalformedBody(_TOO_DEEP)
    return _without_surrogates(data) if surrogates else data


def _decode(raw: bytes) -> tuple[str, bool]:
    """The text, and whether it may hold surrogates, escaped or encoded as if they were characters."""
    encoding = json.detect_encoding(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return raw.decode(encoding, "surrogatepass"), True
    # The plain search is fifty times faster than the pattern, and mostly enough.
    return text, "\\u" in text and _ESCAPED_SURROGATE.search(text) is not None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large a number")
    return number


def _too_deep(data: Any) -> bool:
    level = [data]
    for _ in range(_DEEPEST):
        children = (part.values() if isinstance(part, dict) else part for part in level)
        level = [child for parts in children for child in parts if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _without_surrogates(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(data, list):
        return [_without_surrogates(part) for part in data]
    if isinstance(data, dict):
        return {_without_surrogates(key): _without_surrogates(part) for key, part in data.items()}
    return data


def _first_problem(error: ValidationError) -> InvalidRequest:
    # A union reports one problem a branch: the fewest path parts name the field itself.
    problem = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in problem["loc"]]
    field = ".".join(path)
    if problem["type"] == "missing":
        return InvalidRequest(f"{field} is required", path[0])
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return InvalidRequest(f"{field} {reason}", path[0])
