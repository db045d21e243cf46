"""Under a prefix: mounted in another application, and behind a server that was told of one."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urljoin

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from reranker_serve.app import create_app
from reranker_serve.backends.fake import fake_scorer
from tests.conftest import fake_settings

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}
KEY = {"Authorization": "Bearer k"}

Client = AbstractAsyncContextManager[httpx.AsyncClient]


def application() -> FastAPI:
    return create_app(fake_settings(model_name="fake", api_key="k"), fake_scorer())


def mounted(prefix: str) -> Client:
    """In an application of another's, which runs our lifespan, as `docs/operations.md` has it."""
    inner = application()
    outer = FastAPI(lifespan=lambda _: inner.router.lifespan_context(inner))
    outer.mount(prefix, inner)
    return _in_process(outer, httpx.ASGITransport(outer), f"http://test{prefix}")


def server_that_leaves_the_path(prefix: str) -> Client:
    """As servers do that do not put their prefix before the path."""
    app = application()
    return _in_process(app, httpx.ASGITransport(app, root_path=prefix), "http://test")


@asynccontextmanager
async def _in_process(app: FastAPI, transport: httpx.ASGITransport, url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=url, timeout=10) as client,
    ):
        yield client


def behind_a_proxy_that_strips(prefix: str) -> Client:
    return _uvicorn(prefix, "")


def behind_a_proxy_that_does_not_strip(prefix: str) -> Client:
    return _uvicorn(prefix, prefix)


@asynccontextmanager
async def _uvicorn(root_path: str, asked: str) -> AsyncIterator[httpx.AsyncClient]:
    """A real server with `--root-path`, asked at paths that begin with `asked`."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(application(), root_path=root_path, log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}{asked}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield client
        server.should_exit = True
        await serving


WAYS = [mounted, server_that_leaves_the_path, behind_a_proxy_that_strips, behind_a_proxy_that_does_not_strip]
# Such that one is the beginning of our own paths, and one is a whole path of ours.
PREFIXES = ["/rerank-api", "/v1", "/rerank", "/a/b"]


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
async def client(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[httpx.AsyncClient]:
    reach: Callable[[str], Client] = request.param
    async with reach(prefix) as client:
        yield client


async def test_everything_answers_under_a_prefix(client: httpx.AsyncClient) -> None:
    for path in ("/rerank", "/v2/rerank", "/v1/retrieval/a/b/reranking", "//v2//rerank/", "/"):
        reply = await client.post(path, json=GOOD, headers=KEY)
        assert reply.status_code == 200, (path, reply.text)
        assert reply.json()["results"][0]["index"] == 0
    for path in ("/health", "/live", "/ready", "/ping", "/v1/health/ready", "/v1/cluster/auth"):
        assert (await client.get(path)).status_code == 200, path
    assert (await client.get("/v1/models/any")).status_code == 401
    assert (await client.get("/v1/models/any", headers=KEY)).json()["id"] == "fake"
    assert (await client.post("/tokenize", json={"prompt": "a"}, headers=KEY)).json()["count"] == 2
    assert (await client.post("/score", json=GOOD)).status_code == 401
    assert (await client.post("/nowhere", json=GOOD, headers=KEY)).status_code == 404
    assert (await client.get("/rerank", headers=KEY)).status_code == 405


async def test_the_page_for_browsers_and_its_parts_are_found_under_a_prefix(
    client: httpx.AsyncClient, prefix: str
) -> None:
    if prefix == "/rerank":
        pytest.skip("is where one reranks")
    for address in ("", "/"):  # without the slash a browser is sent to where it is
        url = str(client.base_url).rstrip("/") + address
        reply = await client.get(url, headers={"Accept": "text/html"}, follow_redirects=True)
        assert reply.status_code == 200
        for link in re.findall(r'(?:src|href)="([^"#]+)"', reply.text):
            assert (await client.get(urljoin(str(reply.url), link))).status_code == 200, link
        assert (await client.post(urljoin(str(reply.url), "rerank"), json=GOOD, headers=KEY)).status_code == 200


async def test_the_page_finds_its_parts_under_a_prefix(client: httpx.AsyncClient) -> None:
    for page in ("/docs", "/docs/"):
        reply = await client.get(page)
        found = re.findall(r"""(?:src|href|url)(?:=|: )["']([^"']+)["']""", reply.text)
        assert len(found) == 4
        for link in found:
            # As a browser does it, which knows nothing of the prefix.
            assert not link.startswith("/")
            found_there = await client.get(urljoin(str(reply.url), link))
            assert found_there.status_code == 200, link
            if link.endswith("/openapi.json"):
                # Where the page sends what is tried.
                server = urljoin(str(found_there.url), found_there.json()["servers"][0]["url"]).rstrip("/")
                assert (await client.post(f"{server}/rerank", json=GOOD, headers=KEY)).status_code == 200
