"""Requests made from the OpenAPI description, wild ones too, against a real server: never a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.app import create_app
from reranker_serve.backends.fake import fake_scorer
from tests.conftest import fake_settings
from tests.reliability.load import FULL
from tests.server.processes import FAKE_SERVER, Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), FAKE_SERVER) as process:
        process.wait_ready()
        yield process


# Not with schemathesis' own pytest integration: it does not know this version of pytest.
DESCRIPTION = schemathesis.openapi.from_dict(create_app(fake_settings(), fake_scorer()).openapi())
OPERATIONS = [found.ok() for found in DESCRIPTION.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_no_request_made_from_the_description_fails_the_server(operation: Any, server: Server) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=300 if FULL else 25, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        reply = case.call(base_url=server.url)
        assert reply.status_code < 500 or asked_for(reply), reply.text
        if reply.headers.get("content-type", [""])[0] == "application/json":
            json.loads(reply.content, parse_constant=lambda name: pytest.fail(f"{name} in a reply"))

    check()


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
FIELDS = sorted({name for dialect in DIALECTS for name in (*dialect.body.model_fields, *dialect.ignored)})
PATHS = [path.replace("{model:path}", "m") for dialect in DIALECTS for path in dialect.paths]


@given(
    path=st.sampled_from(PATHS),
    texts=st.sampled_from(["documents", "texts", "passages", "input", "docs"]),
    wild=st.dictionaries(st.sampled_from(FIELDS), WILD | st.integers(-3, 600) | st.booleans(), max_size=4),
)
@settings(max_examples=3000 if FULL else 300, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_combination_of_fields_fails_the_server(server: Server, path: str, texts: str, wild: dict[str, Any]) -> None:
    body = {"query": "blue whale", texts: ["the blue whale", "fox " * 600], **wild}
    reply = httpx.post(f"{server.url}{path}", json=body, timeout=30)
    assert reply.status_code in (200, 400, 422) or asked_for(reply), reply.text


def asked_for(reply: Any) -> bool:
    """A request may ask for a timeout of a millisecond, and get what it asked for."""
    return reply.status_code == 504 and "the request's own timeout" in reply.text
