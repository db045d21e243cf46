"""The page in a real Chromium, over a real server; skipped, and said so, where no Chromium is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.processes import FAKE_SERVER, Server, running

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser (./setup.sh --dev)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEY = "open sesame"


# Of the package, not of the session: while Playwright runs, its thread can run no test that is a coroutine.
@pytest.fixture(scope="package")
def browser() -> Iterator[sync_api.Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        # As root, as in most containers, Chromium starts without its sandbox only.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
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
    # A browser logs each answer that is none of 200: those are the server's, and the tests look at what is shown.
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []


@pytest.fixture
def page(context: sync_api.BrowserContext) -> sync_api.Page:
    return context.new_page()
