"""What a caller is told whose path is none of ours: most likely its base URL holds too much of it, or too little."""

from __future__ import annotations

from difflib import get_close_matches
from urllib.parse import quote

from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.errors import UnknownRoute

_PATHS = [path for dialect in DIALECTS for path in dialect.paths if "{" not in path]


def unknown_route(path: str) -> UnknownRoute:
    meant = _meant(path)
    advice = "to rerank, POST to /rerank" if meant is None else f"POST to {meant}{_base_url(path, meant)}"
    return UnknownRoute(f"there is no {quote(path)} here: {advice}")  # a line break would not show


def _meant(path: str) -> str | None:
    """The rerank path that this one begins, ends in, goes on from, or is like: the first of these that there is."""
    begun = [known for known in _PATHS if known.startswith(f"{path}/")]
    endings = [known for known in _PATHS if path.endswith(known)]
    versioned = [known for known in endings if known.count("/") > 1]
    passed = [known for known in _PATHS if path.startswith(f"{known}/")]
    found = (
        sorted(begun, key=lambda known: (not known.endswith("/rerank"), len(known)))
        or sorted(versioned or passed, key=len, reverse=True)
        or get_close_matches(path, _PATHS, n=1, cutoff=0.85)
        or endings
    )
    return found[0] if found else None


def _base_url(path: str, meant: str) -> str:
    """What to set in a client that itself adds the end that both paths have in common."""
    asked, base = path.split("/"), meant.split("/")
    while asked[-1] == base[-1] and base[-1]:
        asked.pop(), base.pop()
    root = "/".join(base)
    if root == meant:
        return ""
    end = f"in {root}" if root else "before it"
    return f"; if the client adds {meant.removeprefix(root)}, its base URL must end {end}"
