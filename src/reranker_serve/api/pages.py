"""Pages for people: `/docs`, where the API can be tried, and the description that it is made from.

They hold nothing secret, so they open without a key and ask for it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from reranker_serve.api.paths import ASSETS, DESCRIPTION, DOCS, is_open

# All groups are folded but the first, and each example is ready to be sent.
_DOCS = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: every API</title>
<link rel="icon" href="{assets}/favicon.png">
<link rel="stylesheet" href="{assets}/swagger-ui.css">
</head>
<body>
<main id="docs"></main>
<script src="{assets}/swagger-ui-bundle.js"></script>
<script>
const page = SwaggerUIBundle({{
  url: "{description}",
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "none",
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: -1,
  onComplete() {{
    const first = page.specSelectors.taggedOperations().keySeq().first();
    page.layoutActions.show(["operations-tag", first], true);
  }},
}});
</script>
</body>
</html>
"""


def add_pages(app: FastAPI, needs_key: bool) -> None:
    """`/docs`, for an application that has its assets and its description."""

    @app.get(DOCS, include_in_schema=False)
    async def docs(request: Request) -> Response:
        # Links are relative, as a proxy may take away a prefix and tell nobody.
        root = ".." if request.scope.get("raw_path", b"").endswith(b"/") else "."
        return HTMLResponse(_DOCS.format(title=app.title, assets=root + ASSETS, description=root + DESCRIPTION))

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
