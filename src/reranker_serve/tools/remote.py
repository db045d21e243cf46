"""Any rerank server, asked over HTTP; which API it speaks is found out by asking."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reranker_serve.errors import StartupError, shortened
from reranker_serve.judgments.extras import require
from reranker_serve.tools.dialects import DIALECTS, WireDialect, read_scores

_TIMEOUT_S = 600
_TRIES = 6
_LONGEST_PAUSE_S = 60.0
_BUSY = frozenset({429, 502, 503, 504})
_TOO_MANY = frozenset({400, 413, 422})
_PROBE = "How do plants make food?", ("Photosynthesis turns sunlight into sugar.", "The stock market fell on Monday.")
# A path that is asked as it is.
_WHOLE_PATH = re.compile(r"/(rerank|reranking|ranking|invocations)(/v\d+)?$")
_VERSION = re.compile(r"/v\d+$")


@dataclass(frozen=True, slots=True)
class Remote:
    """A server; without `dialect` all are tried. `model` is for servers that have several."""

    url: str
    dialect: str | None = None
    model: str | None = None
    key: str | None = None

    @classmethod
    def parse(cls, address: str, key: str | None = None) -> Remote:
        """`URL`, `URL#DIALECT`, `URL#MODEL` or `URL#DIALECT:MODEL`. Raises `StartupError`."""
        url, _, fragment = address.partition("#")
        dialect, colon, model = fragment.partition(":")
        if dialect in DIALECTS:
            return cls(url.rstrip("/"), dialect, model or None, key or None)
        if colon:
            raise StartupError(f"{address}: {dialect} is no API that is known: choose one of {', '.join(DIALECTS)}")
        return cls(url.rstrip("/"), None, fragment or None, key or None)

    @property
    def identity(self) -> dict[str, Any]:
        """What its scores depend on, as far as can be told."""
        return {"url": self.url, "dialect": self.dialect, "model": self.model}


class _Refused(Exception):
    """Status and the server's own words; status 0 where the reply is no ranking."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status or 'a reply that'} {reason}".strip())
        self.status = status


class RemoteRanker:
    """Asks the server for a ranking first. Raises `StartupError` with one line if it gives none by any API."""

    def __init__(self, server: Remote) -> None:
        self._httpx = require("httpx")
        self._client = self._httpx.Client(timeout=_TIMEOUT_S)
        self._server = server
        self._most: int | None = None
        try:
            self._name, self._url = self._find()
        except StartupError:
            self._client.close()
            raise

    @property
    def about(self) -> dict[str, Any]:
        """`most_documents`: where the server takes no more in a request, and so was asked in parts."""
        about = {"model": self._server.model, "precision": None, "url": self._url, "dialect": self._name}
        return about | self._information() | {"most_documents": self._most}

    def score(self, query: str, documents: Sequence[str]) -> tuple[list[float], float]:
        scores: list[float] = []
        seconds = 0.0
        while len(scores) < len(documents):
            part = documents[len(scores) :][: self._most]
            try:
                found, took = self._ask(self._name, self._url, query, part)
            except _Refused as refused:
                if refused.status not in _TOO_MANY or len(part) == 1:
                    raise StartupError(f"{self._url} answered {refused}") from None
                self._most = (len(part) + 1) // 2
            else:
                scores, seconds = scores + found, seconds + took
        return scores, seconds

    def close(self) -> None:
        self._client.close()

    def _find(self) -> tuple[str, str]:
        answers: dict[str, list[str]] = {}
        for name, url in _addresses(self._server):
            try:
                self._ask(name, url, *_PROBE)
            except _Refused as refused:
                if refused.status in (401, 403):
                    hint = f"is the key right, and the API? name it as in {self._server.url}#pinecone"
                    hint = hint if self._server.key else "give the server's key by --key"
                    raise StartupError(f"{url} answered {refused}: {hint}") from None
                answers.setdefault(shortened(str(refused), 100), []).append(name)
            else:
                return name, url
        told = "; ".join(f"{', '.join(names)}: {answer}" for answer, names in answers.items())
        raise StartupError(
            f"{self._server.url} gives no ranking ({told}): name its API, and the model where it wants one, as in"
            f" {self._server.url}#tei or {self._server.url}#cohere:MODEL"
        )

    def _information(self) -> dict[str, Any]:
        """What ours and TEI tell at `/info`; nothing of others."""
        dialect = DIALECTS[self._name]
        try:
            reply = self._client.get(
                self._url.removesuffix(dialect.path) + "/info", headers=dialect.all_headers(self._server.key)
            )
            told = reply.json() if reply.status_code == 200 else {}
            return {
                ours: told[name]
                for ours, names in (("model", ("model", "model_id")), ("precision", ("dtype", "model_dtype")))
                for name in names
                if isinstance(told.get(name), str)
            }
        except (self._httpx.HTTPError, ValueError, AttributeError):
            return {}

    def _ask(self, name: str, url: str, query: str, documents: Sequence[str]) -> tuple[list[float], float]:
        """One request, again while the server is busy; the seconds are those of the one that was answered."""
        dialect = DIALECTS[name]
        content = json.dumps(_body(dialect, query, documents, self._server.model))
        headers = dialect.all_headers(self._server.key)
        for attempt in range(_TRIES):
            start = time.perf_counter()
            try:
                reply = self._client.post(url, content=content, headers=headers)
            except (self._httpx.HTTPError, self._httpx.InvalidURL) as error:
                raise StartupError(f"{self._server.url} does not answer: {error or type(error).__name__}") from None
            seconds = time.perf_counter() - start
            if reply.status_code not in _BUSY or attempt == _TRIES - 1:
                break
            time.sleep(_pause(reply.headers.get("Retry-After"), attempt))
        if reply.status_code != 200:
            raise _Refused(reply.status_code, shortened(reply.text, 200))
        try:
            return read_scores(dialect, reply.content, len(documents)), seconds
        except ValueError as error:
            raise _Refused(0, str(error)) from None


def _addresses(server: Remote) -> Iterator[tuple[str, str]]:
    """Dialects to try, and where: at the address itself if its path is that of an API, else at each API's own."""
    for name in [server.dialect] if server.dialect else DIALECTS:
        path = DIALECTS[name].path
        if _WHOLE_PATH.search(server.url):
            yield name, server.url
        elif _VERSION.search(server.url) and _VERSION.match(path[:3]):
            yield name, _VERSION.sub("", server.url) + path
        else:
            yield name, server.url + path


def _body(dialect: WireDialect, query: str, documents: Sequence[str], model: str | None) -> dict[str, Any]:
    body = dialect.body(query, list(documents), model or "") | dict(dialect.raw)
    return body if model else {name: value for name, value in body.items() if name != "model"}


def _pause(asked: str | None, attempt: int) -> float:
    try:
        return max(0.0, min(float(asked or 2**attempt), _LONGEST_PAUSE_S))
    except ValueError:
        return float(2**attempt)
