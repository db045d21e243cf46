from __future__ import annotations

from collections.abc import Iterator

import pytest

from reranker_serve import errors
from reranker_serve.api.dialects import all_dialects
from reranker_serve.api.errors import STATUS, headers_of, status_of


def subclasses(kind: type[errors.RequestError]) -> Iterator[type[errors.RequestError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def example(kind: type[errors.RequestError]) -> errors.RequestError:
    if kind is errors.MethodNotAllowed:
        return errors.MethodNotAllowed("said", "POST")
    if kind is errors.Overloaded:
        return errors.Overloaded("said", 7)
    return kind("said")


def test_every_request_error_has_a_status_and_every_status_an_error() -> None:
    assert set(subclasses(errors.RequestError)) == set(STATUS)


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_dialect_renders_it(kind: type[errors.RequestError]) -> None:
    error = example(kind)
    for dialect in all_dialects():
        body = dialect.error(error)
        assert body["detail"] == body["message"] == body["error"]["message"] == "said"
        assert body["error"]["code"] == status_of(error)
        assert body["error"]["type"]


def test_what_a_message_quotes_cannot_make_it_long_or_break_the_line() -> None:
    assert str(errors.InvalidRequest(" model 'a\r\nb\u2028c'\tis unknown")) == "model 'a b c' is unknown"
    assert str(errors.UnknownModel("x" * 500)) == "x" * 500
    assert str(errors.UnknownModel("x" * 501)) == "x" * 499 + "\u2026"


def test_errors_that_pass_tell_when_to_come_back() -> None:
    waits = {kind for kind in STATUS if "Retry-After" in headers_of(example(kind))}
    assert waits == {errors.Overloaded, errors.NotReady}
    assert headers_of(example(errors.Overloaded))["Retry-After"] == "7"
