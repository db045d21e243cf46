"""The path of a request, as this application names it, and what is open there."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

# `/v1/cluster/auth` tells Xinference's client whether to send its key.
PROBES = frozenset({"/health", "/live", "/ready", "/ping", "/v1/health/live", "/v1/health/ready", "/v1/cluster/auth"})
METRICS = "/metrics"
STATS = "/stats"
DOCS = "/docs"
ASSETS = "/docs/assets"
DESCRIPTION = "/openapi.json"
PAGE = "/"
WEB = "/web"

_SLASHES = re.compile(r"/{2,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_open(path: str) -> bool:
    """Whether no key is needed: for probes, and for pages for people, which hold nothing secret."""
    return path in PROBES or path in (DOCS, DESCRIPTION) or path.startswith((f"{ASSETS}/", f"{WEB}/"))


def asks_for_page(scope: Scope, path: str) -> bool:
    """Whether a browser wants to show what is at `/`; clients post there, and probes do not ask for HTML."""
    return path == PAGE and scope["method"] in ("GET", "HEAD") and "text/html" in Headers(scope=scope).get("accept", "")


def is_polled(path: str) -> bool:
    """Whether machines ask again and again, which would fill the log."""
    return path in PROBES or path in (METRICS, STATS)


def is_odd(path: str) -> bool:
    """Whether a path holds what no path of ours has. A router's patterns end before a line break, too."""
    return _CONTROL.search(path) is not None


def settle_path(scope: Scope) -> str:
    """The path without spare slashes, and without the prefix that a server or an outer application has put before it.

    From then on `scope` has it in this form, behind its `root_path`, where the router looks for it.
    """
    root = scope.get("root_path", "")
    path = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
    if root:
        path = _below(root.rstrip("/"), path, scope["app"].routes)
    scope["path"] = root + path
    return path


def _below(prefix: str, path: str, routes: list[BaseRoute]) -> str:
    """`path` without `prefix`, which should be there once.

    uvicorn puts it before whatever comes, also where a proxy left it there; other servers put it nowhere. A path of
    ours may begin with it, too. So it is looked which of them is a path of ours.
    """
    once = _without(prefix, path)
    candidates = (once, path, _without(prefix, once))
    return next((candidate for candidate in candidates if _is_routed(candidate, routes)), once)


def _without(prefix: str, path: str) -> str:
    return path.removeprefix(prefix) or "/" if f"{path}/".startswith(f"{prefix}/") else path


def _is_routed(path: str, routes: list[BaseRoute]) -> bool:
    scope = {"type": "http", "method": "GET", "path": path}
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)
