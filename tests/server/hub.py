"""A model hub on loopback that serves folders, as far as downloads need it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, models: dict[str, Path], requests: list[str], revisions: set[str]) -> None:
        self._models, self._requests, self._revisions = models, requests, revisions
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self._requests.append(path)
        model = next((name for name in self._models if path.startswith((f"/api/models/{name}", f"/{name}/"))), "")
        folder = self._models.get(model, Path("/nonexistent"))
        files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
        resolved = path.removeprefix(f"/{model}/resolve/{REVISION}/")
        asked = path.partition(f"/api/models/{model}/revision/")[2]
        if not model:
            self._send(404, b"", with_body, {"X-Error-Code": "RepoNotFound"})
        elif asked and asked not in self._revisions:
            self._send(404, b"", with_body, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/api/models/{model}/tree/"):
            rows = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": name} for name, file in files.items()
            ]
            self._send(200, json.dumps(rows).encode(), with_body)
        elif path.startswith(f"/api/models/{model}"):
            siblings = [{"rfilename": name} for name in files]
            info = {
                "id": model,
                "sha": REVISION,
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
            self._send(200, json.dumps(info).encode(), with_body)
        elif resolved in files:
            self._send(200, files[resolved].read_bytes(), with_body)
        else:
            self._send(404, b"", with_body, {"X-Error-Code": "EntryNotFound"})

    def _send(self, status: int, content: bytes, with_body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def hub(model: str, folder: Path, *tags: str, others: dict[str, Path] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as `model`, and `others`, whose one revision is `main` and `tags`.

    Gives the address and the paths asked for.
    """
    requests: list[str] = []
    revisions = {"main", REVISION, *tags}
    handler = partial(_Handler, models={model: folder} | (others or {}), requests=requests, revisions=revisions)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
