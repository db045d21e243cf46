from __future__ import annotations

from pathlib import Path

import pytest

from reranker_serve.keys import hash_key
from tests.conftest import Connect

GOOD = {"query": "blue whale", "documents": ["the blue whale"]}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"authorization": "bearer  second "},
        {"Authorization": "first"},
        {"X-Api-Key": "second"},
        {"Api-Key": "first"},
        {"Authorization": "Bearer wrong", "X-Api-Key": "first"},
        {"X-Api-Key": "schl\u00fcssel \u4f60".encode()},
        {"Authorization": "Bearer schl\u00fcssel \u4f60".encode()},
    ],
)
async def test_any_key_in_any_header_is_accepted(headers: dict[str, str | bytes], connect: Connect) -> None:
    raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()]
    async with connect(api_key="first, second,schl\u00fcssel \u4f60") as client:
        assert (await client.post("/rerank", json=GOOD, headers=raw)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer firs"},
        {"Authorization": "Bearer first,second"},
        {"Authorization": "Basic first"},
        {"X-Api-Key": "FIRST"},
        {"X-Api-Key": b"\xff\xfe\xfd"},
        {"Api-Key": "x" * 10_000},
        {"Cookie": "first"},
    ],
)
async def test_no_key_or_a_wrong_one_is_401(headers: dict[str, str | bytes], connect: Connect) -> None:
    raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()]
    async with connect(api_key="first,second") as client:
        reply = await client.post("/v1/rerank?api_key=first", json=GOOD, headers=raw)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert "key" in reply.json()["detail"]
    assert "second" not in reply.text


@pytest.mark.parametrize("path", ["/health", "/live", "/ready"])
async def test_probes_stay_open(path: str, connect: Connect) -> None:
    async with connect(api_key="first") as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/openapi.json", "/docs/assets/swagger-ui.css"])
async def test_pages_for_people_open_without_a_key(path: str, connect: Connect) -> None:
    async with connect(api_key="first") as client:
        assert (await client.get(path)).status_code == 200
    async with connect(api_key="first", enable_docs="false") as client:
        assert (await client.get(path, headers={"X-Api-Key": "first"})).status_code == 404


async def test_the_description_asks_for_the_key_where_one_is_needed(connect: Connect) -> None:
    async with connect(api_key="first") as client:
        described = (await client.get("/openapi.json")).json()
        assert described == (await client.get("/openapi.json")).json()
        closed = {
            path
            for path, operations in described["paths"].items()
            if (await client.request(next(iter(operations)), path, json={})).status_code == 401
        }
    assert described["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    marked = {
        path
        for path, operations in described["paths"].items()
        if all(operation.get("security") == [{"key": []}] for operation in operations.values())
    }
    assert closed == marked
    assert {"/rerank", "/tokenize", "/info", "/metrics"} <= marked
    async with connect() as client:
        assert "security" not in (await client.get("/openapi.json")).text


@pytest.mark.parametrize("path", ["/metrics", "/info", "/v1/models", "/docs/other", "/docs/assetsnot", "/nowhere"])
async def test_everything_else_is_closed(path: str, connect: Connect) -> None:
    async with connect(api_key="first") as client:
        assert (await client.get(path)).status_code == 401
        opened = await client.get(path, headers={"X-Api-Key": "first"})
        assert opened.status_code == (200 if path in ("/metrics", "/info", "/v1/models") else 404)


async def test_docs_and_metrics_can_be_closed(connect: Connect) -> None:
    async with connect(enable_docs="false", enable_metrics="false") as client:
        for path in ("/docs", "/openapi.json", "/metrics", "/stats"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/rerank", json=GOOD)).status_code == 200


async def test_keys_of_a_file_and_of_the_settings_hold_together(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"team-a: {hash_key('filed')}\n")
    async with connect(api_key_file=str(tmp_path / "keys"), api_key=f"set,{hash_key('hashed')}") as client:
        for key, status in (("filed", 200), ("set", 200), ("hashed", 200), (hash_key("filed"), 401), ("", 401)):
            reply = await client.post("/rerank", json=GOOD, headers={"X-Api-Key": key})
            assert reply.status_code == status, key
        assert (await client.get("/v1/cluster/auth")).json() == {"auth": True}
