"""`/docs`: in which order it shows what there is, and that what it shows works when pressed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from reranker_serve.api.dialects.table import DIALECTS, SHOWN
from tests.conftest import Connect
from tests.server.processes import FAKE_SERVER, Server, running

PROBES = ["Probes", "Models", "Metrics"]


async def groups(connect: Connect) -> dict[str, list[str]]:
    """The paths of each group, in the order of the description, which is that of the page."""
    found: dict[str, list[str]] = {}
    async with connect() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            found.setdefault(operation["tags"][0], []).append(path)
    return found


async def test_the_apis_come_first_by_how_many_use_them_then_probes_models_and_metrics(connect: Connect) -> None:
    found = await groups(connect)
    assert list(found)[:3] == ["Native", "Cohere", "Jina"]
    assert list(found)[-3:] == PROBES
    assert found["Cohere"] == ["/v2/rerank", "/v1/rerank"]
    assert found["Probes"] == ["/health", "/live", "/ready"]


def test_every_api_is_shown_once_with_those_of_a_vendor_together() -> None:
    assert sorted(dialect.name for dialect in SHOWN) == sorted(dialect.name for dialect in DIALECTS)
    vendors = [dialect.vendor for dialect in SHOWN]
    changes = [vendor for before, vendor in zip(["", *vendors], vendors, strict=False) if vendor != before]
    assert len(changes) == len(set(vendors))


async def test_every_example_works_when_it_is_sent(connect: Connect) -> None:
    async with connect() as client:
        paths: dict[str, Any] = (await client.get("/openapi.json")).json()["paths"]
        for path, operations in paths.items():
            for method, operation in operations.items():
                for name, body in bodies(operation):
                    reply = await client.request(method, filled(path, operation), json=body)
                    assert reply.status_code == 200, (path, name, reply.text)


def bodies(operation: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the page has in its box for the body, one after the other; None where there is no body."""
    if "requestBody" not in operation:
        return [("", None)]
    content = operation["requestBody"]["content"]["application/json"]
    if "example" in content:
        return [("", content["example"])]
    return [(name, example["value"]) for name, example in content["examples"].items()]


def filled(path: str, operation: dict[str, Any]) -> str:
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            first = next(iter(parameter["examples"].values()))
            path = path.replace(f"{{{parameter['name']}}}", first["value"])
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), FAKE_SERVER, api_key="first", model_name="team/fake") as process:
        process.wait_ready()
        yield process


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="drives a browser (./setup.sh --dev)")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(10_000)
        page.goto(f"{server.url}/docs")
        yield page
        browser.close()


def test_a_visitor_sees_the_groups_folded_but_the_first_and_an_example_works(page: Any) -> None:
    page.wait_for_selector(".opblock-tag-section.is-open")
    shown = page.locator("h3.opblock-tag").evaluate_all("all => all.map(each => each.dataset.tag)")
    opened = page.locator(".is-open h3.opblock-tag").evaluate_all("all => all.map(each => each.dataset.tag)")
    assert (shown[:3], shown[-3:], opened) == (["Native", "Cohere", "Jina"], PROBES, ["Native"])
    page.click(".opblock-summary-control >> text=/rerank")
    page.click("button.execute")
    assert page.inner_text(".live-responses-table .response .response-col_status") == "401"
    page.click("button.authorize.unlocked")
    page.fill(".auth-container input", "first")
    page.click(".auth-container button.authorize")
    page.click(".btn-done")
    page.click("button.execute")
    page.wait_for_selector(".live-responses-table .response-col_status:text('200')")
    assert "relevance_score" in page.inner_text(".live-responses-table .response .highlight-code")


def test_the_box_for_a_model_is_filled(page: Any) -> None:
    page.click("h3[data-tag=Models]")
    page.click("#operations-Models-model .opblock-summary-control")
    assert page.input_value("#operations-Models-model input") == "team/fake"
