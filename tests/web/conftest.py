"""The page in a real Chromium, over a real server; skipped, and said so, where no Chromium is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api

from tests.server.processes import FAKE_SERVER, Server, running
from tests.web import browsers

KEY = "open sesame"


# Of the package, not of the session: while Playwright runs, its thread can run no test that is a coroutine.
@pytest.fixture(scope="package")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = browsers.start(playwright)
        if browser is None:
            pytest.skip("no Chromium is installed (apt-get install chromium)")
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("web"), FAKE_SERVER, model_name="fake") as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="package")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("web-locked")
    with running(folder, FAKE_SERVER, model_name="fake", api_key=KEY) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def context(browser: sync_api.Browser) -> Iterator[sync_api.BrowserContext]:
    """A browser as fresh as a new user's. Whatever asks another host, or logs an error, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(10_000)
    asked: list[str] = []
    faults: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield context
    context.close()
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    # A browser logs what servers refuse; the tests look at what is shown of it.
    refused = ("Failed to load resource", "blocked by CORS policy")
    assert [fault for fault in faults if not any(words in fault for words in refused)] == []


@pytest.fixture
def page(context: sync_api.BrowserContext) -> sync_api.Page:
    return context.new_page()
