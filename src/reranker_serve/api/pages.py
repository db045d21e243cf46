"""Pages for people: `/docs`, where the API can be tried, and the description that it is made from.

They hold nothing secret, so they open without a key and ask for it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response

from reranker_serve.api.paths import ASSETS, DESCRIPTION, DOCS, is_open


def add_pages(app: FastAPI, needs_key: bool) -> None:
    """`/docs`, for an application that has its assets and its description."""

    @app.get(DOCS, include_in_schema=False)
    async def docs(request: Request) -> Response:
        # Links are relative, as a proxy may take away a prefix and tell nobody.
        root = ".." if request.scope.get("raw_path", b"").endswith(b"/") else "."
        return get_swagger_ui_html(
            title=app.title,
            openapi_url=root + DESCRIPTION,
            swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
        )

    if needs_key:
        _ask_for_the_key(app)


def _ask_for_the_key(app: FastAPI) -> None:
    """Gives the page its Authorize button, and each operation that needs the key a lock."""
    without_keys = app.openapi

    def openapi() -> dict[str, Any]:
        schema = without_keys()
        schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            if not is_open(path):
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI wants a description to be changed
