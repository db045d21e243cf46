"""What browsers are told: which pages of other sites may call, and what our own pages may do."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Keys go in headers, never in cookies: a page of another site can only send a key that it was given.
CORS: dict[str, Any] = {
    "allow_methods": ("GET", "POST"),
    "allow_headers": (
        "Authorization",
        "X-API-Key",
        "Api-Key",
        "Content-Type",
        "X-Request-ID",
        "X-Request-Timeout",
        "X-Deadline-Ms",
        "X-Pinecone-Api-Version",
    ),
    "expose_headers": (
        "X-Request-ID",
        "X-Response-Time-Ms",
        "X-Rerank-Scored",
        "X-Rerank-Left-Out",
        "Retry-After",
        "x-compute-tokens",
        "x-total-time",
        *(f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    ),
}

# Swagger UI begins with a script in the page, writes styles, and has images as data. Neither page nor script holds
# anything that came with a request, so a hash of the script would guard nothing. Calls go to this server alone.
_PAGE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class BrowserHeaders:
    """No reply is taken for another type than it says; pages load nothing from elsewhere and stand in no frame."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.append("X-Content-Type-Options", "nosniff")
                if headers.get("content-type", "").startswith("text/html"):
                    headers.update(_PAGE)
            await send(message)

        await self._app(scope, receive, with_headers)
