from __future__ import annotations

from collections.abc import Iterator

import pytest

from reranker_serve import errors
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.api.errors import STATUS, headers_of, status_of

# Voyage's clients read `error` as an object of their own, and may meet any of these on /v1/rerank.
PLAIN = {"cohere_v1", "cohere_v2", "jina", "voyage", "xinference"}


def subclasses(kind: type[errors.RequestError]) -> Iterator[type[errors.RequestError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def example(kind: type[errors.RequestError]) -> errors.RequestError:
    if kind is errors.MethodNotAllowed:
        return errors.MethodNotAllowed("said", "POST")
    if kind is errors.Overloaded:
        return errors.Overloaded("said", 7)
    if kind is errors.RateLimited:
        return errors.RateLimited("said", 7)
    if kind is errors.NoMemory:
        return errors.NoMemory("said", 7)
    return kind("said")


def test_every_request_error_has_a_status_and_every_status_an_error() -> None:
    assert set(subclasses(errors.RequestError)) == set(STATUS)


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_dialect_renders_it(kind: type[errors.RequestError]) -> None:
    error = example(kind)
    for dialect in DIALECTS:
        status = status_of(error, dialect.statuses)
        body = dialect.error(error, status)
        if (dialect.name, status) == ("infinity", 422):
            assert [problem["msg"] for problem in body["detail"]] == ["said"]
        else:
            assert body["detail"] == "said"
        assert body["message"] == "said"
        if dialect.name in ("tei", "tei_predict"):
            assert body["error"] == "said"
            assert body["error_type"][0].isupper()
        elif dialect.name == "mixedbread":
            assert set(body) == {"type", "url", "message", "details", "detail"}
        elif dialect.name == "pinecone":
            assert body["error"]["message"] == "said"
            assert isinstance(body["error"]["code"], str)
            assert body["status"] == status
        elif dialect.name in PLAIN:
            assert body["error"] == "said"
            assert body["code"] == status
            assert body["type"]
        else:
            assert body["error"]["message"] == "said"
            assert body["error"]["code"] == status
            assert body["error"]["type"]


@pytest.mark.parametrize(
    ("kind", "usual", "tei", "infinity"),
    [
        (errors.MalformedBody, 400, 400, 400),
        (errors.InvalidRequest, 400, 422, 422),
        (errors.NoDocuments, 400, 400, 422),
        (errors.TooManyDocuments, 400, 422, 422),
        (errors.TooLong, 400, 422, 422),
        (errors.InferenceFailed, 500, 424, 500),
        (errors.Overloaded, 429, 429, 429),
    ],
)
def test_tei_and_infinity_have_their_own_statuses(
    kind: type[errors.RequestError], usual: int, tei: int, infinity: int
) -> None:
    error = example(kind)
    assert (status_of(error), status_of(error, "tei"), status_of(error, "infinity")) == (usual, tei, infinity)


def test_what_a_message_quotes_cannot_make_it_long_or_break_the_line() -> None:
    assert str(errors.InvalidRequest(" model 'a\r\nb\u2028c'\tis unknown")) == "model 'a b c' is unknown"
    assert str(errors.UnknownModel("x" * 500)) == "x" * 500
    assert str(errors.UnknownModel("x" * 501)) == "x" * 499 + "\u2026"


def test_errors_that_pass_tell_when_to_come_back() -> None:
    waits = {kind for kind in STATUS if "Retry-After" in headers_of(example(kind))}
    assert waits == {errors.Overloaded, errors.RateLimited, errors.NotReady, errors.NoMemory}
    assert headers_of(example(errors.Overloaded))["Retry-After"] == "7"
