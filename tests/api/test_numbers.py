"""Numbers that are no numbers, or too large for anything, in every field and header that holds one: never a 500."""

from __future__ import annotations

import json
from typing import Any, get_args

import httpx
import pytest

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.api.options import Whole
from tests.api.test_dialects import body_in
from tests.conftest import Connect

QUERY, TEXTS = "blue whale", ["a red fox", "the blue whale"]
DIGITS = "9" * 400  # more than a float holds; Python reads integers of up to 4,300 digits
# As they stand in the body.
WRONG = ["1e400", "-1e400", "Infinity", "NaN", "1" + "0" * 400, "-" + DIGITS, "9" * 5000, f'"{DIGITS}"', '"1e400"']
WRONG += [f'"{"9" * 5000}"', '"inf"', '"nan"', "1.5", "[1]", "{}"]
LARGE = ["1e308", str(2**63), str(2**64), str(10**300), f'"{10**300}"', "9007199254740993"]


def whole_numbers(dialect: Dialect) -> list[str]:
    """Every name of every field that is a whole number."""
    names = []
    for name, field in dialect.body.model_fields.items():
        if Whole in get_args(field.annotation):
            alias: Any = field.validation_alias
            names += alias.choices if alias else [name]
    return names


async def post(client: httpx.AsyncClient, dialect: Dialect, field: str, number: str) -> httpx.Response:
    body = json.dumps(body_in(dialect, QUERY, TEXTS) | {field: "@"}).replace('"@"', number)
    return await client.post(dialect.paths[0].replace("{model:path}", "m"), content=body)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_what_is_no_number_is_refused_in_every_field(dialect: Dialect, connect: Connect) -> None:
    assert {"timeout_ms", "max_length", "priority"} <= set(whole_numbers(dialect))
    async with connect() as client:
        for field in whole_numbers(dialect):
            for number in WRONG:
                reply = await post(client, dialect, field, number)
                assert reply.status_code in (400, 422), (field, number[:20], reply.text)
                assert len(reply.text) < 5000


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_large_number_is_taken_or_refused_in_every_field(dialect: Dialect, connect: Connect) -> None:
    async with connect() as client:
        for field in whole_numbers(dialect):
            for number in LARGE:
                reply = await post(client, dialect, field, number)
                assert reply.status_code in (200, 400, 422), (field, number[:20], reply.text)


@pytest.mark.parametrize("number", ["1e400", "inf", "-inf", "nan", "0", "-1", "1e-400", "", "ten", DIGITS, "9" * 5000])
async def test_a_header_that_is_no_number_is_refused(number: str, connect: Connect) -> None:
    async with connect() as client:
        body = {"query": QUERY, "documents": TEXTS}
        reply = await client.post("/rerank", json=body, headers={"X-Request-Timeout": number})
        assert reply.status_code == 400
        assert "X-Request-Timeout" in reply.json()["detail"]
        large = await client.post("/rerank", json=body, headers={"X-Request-Timeout": "1e308"})
        assert large.status_code == 200


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e308", str(2**64), "9" * 4300])
async def test_large_numbers_of_a_document_are_echoed(number: str, connect: Connect) -> None:
    async with connect() as client:
        body = f'{{"query": "a", "documents": [{{"text": "a", "n": {number}}}]}}'
        reply = await client.post("/rerank", content=body)
    assert reply.status_code in (200, 400), reply.text
    assert reply.status_code == 400 or json.loads(number) == reply.json()["results"][0]["document"]["n"]
