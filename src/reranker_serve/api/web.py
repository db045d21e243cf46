"""The page at `/`, where people try the server in a browser: static files of the package, which use the public API.

It holds nothing secret, so it opens without a key and asks for it.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from urllib.parse import unquote

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from reranker_serve.api.browsers import page_policy
from reranker_serve.api.paths import PAGE, WEB, asks_for_page
from reranker_serve.api.unknown_route import unknown_route
from reranker_serve.errors import MethodNotAllowed
from reranker_serve.settings import ORIGIN

_DOCS_LINK = b'<a href="docs" id="docs-link">API</a>'
_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}


def add_web(app: FastAPI, docs: bool) -> None:
    """`GET /` for browsers, and the files that the page is made of. It leads to `/docs` where there is such a page."""
    served = {
        file.name: file.read_bytes() for file in (files("reranker_serve") / "web").iterdir() if _suffix(file.name)
    }
    if not docs:
        served["index.html"] = served["index.html"].replace(_DOCS_LINK, b"")

    async def page(request: Request) -> Response:
        if not asks_for_page(request.scope, PAGE):
            raise MethodNotAllowed("/ takes POST, not GET", "POST")
        # Links are relative, as a proxy may take away a prefix and tell nobody: they need the slash behind it.
        last = unquote(request.scope.get("raw_path", b"/").decode("latin-1")).rpartition("/")[2]
        if last:
            asked = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{last}/{asked}")
        other = request.query_params.get("with", "")
        reply = _file(request, "index.html", served["index.html"])
        reply.headers["Content-Security-Policy"] = page_policy(other if ORIGIN.fullmatch(other) else None)
        reply.headers["Vary"] = "Accept"
        return reply

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in served or name == "index.html":
            raise unknown_route(f"{WEB}/{name}")
        return _file(request, name, served[name])

    app.router.routes += [Route(PAGE, page), Route(WEB + "/{name}", part)]


def _file(request: Request, name: str, content: bytes) -> Response:
    """Asked for anew each time, as after an update of the server no old part may stand beside new ones."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if Headers(scope=request.scope).get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[_suffix(name)], headers=headers)


def _suffix(name: str) -> str:
    """The suffix if it is one of a file that is served, else nothing."""
    suffix = name.rpartition(".")[2]
    return suffix if suffix in _TYPES else ""
