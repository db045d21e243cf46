"""Everything that can go wrong, by whose fault it is.

The tree is the manual: a `RequestError` reaches one caller as a status and one line in the
caller's dialect (`api/errors.py` holds the status table); a `StartupError` ends the process
with one line; the `BackendError`s stay between a backend and the engine.
"""

from __future__ import annotations

_LONGEST_MESSAGE = 500
_LONGEST_REASON = 250


class RerankerError(Exception):
    """Base of all errors of this package; `str(error)` is one line fit for a user."""


def reason(error: Exception) -> str:
    """What an exception of a library says, on one line that ends with a whole sentence or word."""
    return shortened(str(error)) or type(error).__name__


def shortened(text: str, most: int = _LONGEST_REASON) -> str:
    """A text on one line of at most so many characters, cut behind a sentence, else behind a word."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    cut = line[:most]
    return cut[: max(cut.rfind(". ") + 1, 0)] or cut.rpartition(" ")[0] + " …"


# --- the process cannot start ------------------------------------------------------------


class StartupError(RerankerError):
    """The server cannot start as configured; the line says what to do."""


class SettingsError(StartupError):
    """A setting is malformed or impossible."""


class ModelError(StartupError):
    """The model cannot be found, read or served."""


class PortError(StartupError):
    """The address to listen on cannot be had."""


# --- a request gets an error reply -------------------------------------------------------


class RequestError(RerankerError):
    """One request cannot be answered. `retry_after` is in whole seconds, if retrying helps.

    A message may quote the request, so it is brought to one line of bounded length.
    """

    retry_after: int | None = None
    param: str | None = None

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        super().__init__(line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…")


class InvalidRequest(RequestError):
    """The caller's body or parameters are wrong; `param` names the field where known."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class MalformedBody(InvalidRequest):
    """The body is not a JSON object at all."""


class NoDocuments(InvalidRequest):
    """The list of documents is empty."""


class TooManyDocuments(InvalidRequest):
    """More documents than one request may have."""


class TooLong(InvalidRequest):
    """A text does not fit the model and the caller forbade to truncate it."""


class Unauthorized(RequestError):
    """No key, or not one that is accepted."""


class UnknownModel(RequestError):
    """The request names a model that is not served here."""


class UnknownRoute(RequestError):
    """No such path."""


class MethodNotAllowed(RequestError):
    """The path exists, the method does not; `allow` lists those that do."""

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class SlowBody(RequestError):
    """The body did not arrive in time."""


class RequestTooLarge(RequestError):
    """The body, or the request's tokens, exceed a limit for good: retrying cannot help."""


class UnsupportedEncoding(RequestError):
    """The body is encoded in a way that is not read here."""


class Overloaded(RequestError):
    """The queue is full now."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoMemory(RequestError):
    """The bodies of requests take as much memory now as they may."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(RequestError):
    """The caller has had its requests or tokens of this minute or day."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(RequestError):
    """The server is loading, draining or dead."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(RequestError):
    """The answer was not ready within the request timeout."""


class ClientGone(RequestError):
    """The caller closed the connection; nobody reads this."""


class InferenceFailed(RequestError):
    """The model failed on this request; others are not affected."""


# --- between a backend and the engine ----------------------------------------------------


class BackendError(RerankerError):
    """Base of what a backend may raise on purpose."""


class OutOfMemory(BackendError):
    """The batch did not fit; a smaller one may."""


class BackendLost(BackendError):
    """The device is gone or broken for good; no batch will succeed."""
