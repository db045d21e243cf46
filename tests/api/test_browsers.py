from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

import reranker_serve
from reranker_serve.backends.fake import FakeBackend
from tests.conftest import Connect

GOOD = {"query": "blue whale", "documents": ["the blue whale"]}
SITE = "https://app.example.com"
PREFLIGHT = {
    "Origin": SITE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,x-api-key,api-key,content-type,x-request-id,x-request-timeout",
}


def allowed(reply: httpx.Response) -> str | None:
    return reply.headers.get("access-control-allow-origin")


async def test_a_preflight_needs_no_key_and_permits_the_headers_of_keys(connect: Connect) -> None:
    async with connect(cors_origins=f"http://localhost:3000, {SITE}", api_key="s3cret") as client:
        reply = await client.options("/v1/rerank", headers=PREFLIGHT)
        assert (reply.status_code, allowed(reply)) == (200, SITE)
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        for headers in ({"Origin": "https://evil.example.com"}, {"Access-Control-Request-Method": "DELETE"}):
            assert (await client.options("/v1/rerank", headers=PREFLIGHT | headers)).status_code == 400
        other = await client.options("/v1/rerank", headers=PREFLIGHT | {"Origin": "https://evil.example.com"})
        assert allowed(other) is None


async def test_replies_and_errors_can_be_read_by_an_allowed_site_and_no_other(connect: Connect) -> None:
    def explode(items: object) -> None:
        raise RuntimeError("no such kernel")

    async with connect(
        FakeBackend(before_forward=explode), cors_origins=SITE, api_key="k", rate_limit="2 requests"
    ) as c:
        for key, body, status in (("no", GOOD, 401), ("k", {}, 400), ("k", GOOD, 500), ("k", GOOD, 429)):
            reply = await c.post("/rerank", json=body, headers={"Origin": SITE, "X-API-Key": key})
            assert (reply.status_code, allowed(reply)) == (status, SITE)
            exposed = reply.headers["access-control-expose-headers"].lower().split(", ")
            assert {"retry-after", "x-request-id", "x-ratelimit-remaining-tokens"} <= set(exposed)
            assert reply.headers["Vary"] == "Origin"
        other = await c.post("/rerank", json=GOOD, headers={"Origin": SITE + ".evil.org", "X-API-Key": "k"})
        assert allowed(other) is None


async def test_any_site_may_be_allowed_and_none_is_by_default(connect: Connect) -> None:
    async with connect(cors_origins="*") as client:
        assert allowed(await client.post("/rerank", json=GOOD, headers={"Origin": SITE})) == "*"
    async with connect() as client:
        assert allowed(await client.post("/rerank", json=GOOD, headers={"Origin": SITE})) is None
        assert (await client.options("/rerank", headers=PREFLIGHT)).status_code == 405


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/metrics", "/openapi.json", "/docs/assets/swagger-ui.css"])
async def test_no_reply_is_taken_for_another_type(path: str, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.get(path)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Security-Policy" not in reply.headers


async def test_the_page_loads_from_here_alone_and_stands_in_no_frame(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.get("/docs")
        policy = dict(part.split(" ", 1) for part in reply.headers["Content-Security-Policy"].split("; "))
        assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
        assert policy["connect-src"] == "'self'"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        # What the page loads is there, and permitted.
        for source in re.findall(r'(?:src|href)="([^"]+)"', reply.text):
            assert source.startswith("./docs/")
            assert (await client.get(source)).status_code == 200


PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_browser_gets_the_page_and_clients_what_they_got_before(connect: Connect) -> None:
    async with connect(api_key="first") as client:
        page = await client.get("/", headers=PAGE)
        assert (page.status_code, page.headers["Vary"]) == (200, "Accept")
        assert page.headers["Content-Type"].startswith("text/html")
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        assert len(links) > 10
        for link in links:
            assert (await client.get(link)).status_code == 200, link
        assert (await client.get("/")).status_code == 401
        assert (await client.post("/", headers=PAGE)).status_code == 401
        key = {"X-Api-Key": "first"}
        refused = await client.get("/", headers=key)
        assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
        assert (await client.post("/", headers=key, json={"query": "a", "texts": ["a"]})).status_code == 200
        for path in ("/web/index.html", "/web/nothing.js", "/web/..%2fapp.py"):
            assert (await client.get(path)).status_code == 404, path
    async with connect(enable_page="false") as client:
        assert (await client.get("/", headers=PAGE)).status_code == 405
        assert (await client.get("/web/app.js")).status_code == 404


async def test_the_parts_of_the_page_are_sent_again_when_they_changed(connect: Connect) -> None:
    async with connect() as client:
        part = await client.get("/web/app.js")
        assert part.headers["Content-Type"].startswith("text/javascript")
        assert part.headers["Cache-Control"] == "no-cache"
        again = await client.get("/web/app.js", headers={"If-None-Match": part.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_the_policy_of_the_page_is_strict_and_names_another_server_only_if_asked_to(connect: Connect) -> None:
    async with connect() as client:
        for address, calls in (
            ("/", "'self'"),
            ("/?with=https://other.example:8443", "'self' https://other.example:8443"),
            ("/?with=*", "'self'"),
            ("/?with=https://a.example;script-src%20*", "'self'"),
        ):
            headers = (await client.get(address, headers=PAGE)).headers
            policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
            assert policy["connect-src"] == calls, address
            assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
            assert policy["frame-ancestors"] == "'none'"
            assert headers["Referrer-Policy"] == "no-referrer"


def test_the_page_is_small() -> None:
    folder = Path(reranker_serve.__file__).parent / "web"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 150_000


async def test_no_address_makes_the_page_fail(connect: Connect) -> None:
    async with connect() as client:
        for other in ("http://a:%D9%A1", "http://a;script-src%20*", "%00", "http://a:9"):
            page = await client.get(f"/?with={other}", headers={"Accept": "text/html"})
            assert page.status_code == 200
            assert page.headers["Content-Security-Policy"].count("http://a") == (other == "http://a:9")


@pytest.mark.parametrize("docs", ["true", "false"])
async def test_the_page_leads_to_the_docs_where_there_are_some(connect: Connect, docs: str) -> None:
    async with connect(enable_docs=docs) as client:
        page = await client.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, "docs" in page.text) == (200, docs == "true")
        assert ((await client.get("/docs")).status_code == 200) == (docs == "true")
