"""Writes docs/images/page*.png: the page over the demo model, as a new user sees it.

python -m tests.web.screenshots
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.server.processes import CLI, running
from tests.web.browsers import start
from tests.web.steps import rank, show

FOLDER = Path(__file__).parents[2] / "docs" / "images"
LABELS = {1: 1, 2: 0, 3: 1, 6: 1, 9: 0}
COLORS = 256


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), [*CLI, "serve", "--demo"]) as server,
        sync_playwright() as playwright,
    ):
        server.wait_ready()
        warm_up(server.url)
        browser = start(playwright)
        if browser is None:
            sys.exit("no Chromium is installed (apt-get install chromium)")
        page = opened(browser, server.url, "light", 1280, 860)
        save(page, "page-try")
        show(page, "Compare")
        page.locator("#b-length").fill("16")
        page.locator("#compare-run").click()
        page.locator("#figures dd").first.wait_for()
        save(page, "page-compare")
        show(page, "Judge")
        save(page, "page-judge")
        page.goto(f"{server.url}/#serve")
        page.locator("#costs td").first.wait_for()
        save(page, "page-serve")
        save(opened(browser, server.url, "dark", 1280, 860), "page-dark")
        save(opened(browser, server.url, "light", 390, 780), "page-phone")


def warm_up(url: str) -> None:
    """The first passes of a process take longer."""
    for at in range(3):
        documents = [
            f"This is text {number}. It has a few words to begin with, and a few more." for number in range(12)
        ]
        spans = {"mode": "enabled"}
        httpx.post(f"{url}/rerank", json={"query": f"try {at}", "documents": documents, "relevant_spans": spans})


def opened(browser: Browser, url: str, scheme: str, width: int, height: int) -> Page:
    """The sample ranked, some of it judged, with a threshold."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    page.locator(".state.ready").wait_for()
    rank(page)
    for place, label in LABELS.items():
        page.locator(f"#ranking tbody tr:nth-child({place}) .thumb[data-label='{label}']").click()
    page.get_by_label("Threshold as a number").fill("0.4")
    page.get_by_label("Threshold as a number").blur()
    page.locator("#ranking tr.below").first.wait_for()
    if width > 900:
        page.evaluate("scrollTo(0, 0)")
    else:
        page.locator("#result").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#result').scrollIntoView()")
    return page


def save(page: Page, name: str) -> None:
    page.wait_for_timeout(400)  # bars have grown
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    # Of what there is little, as a green arrow is, keeps its colour.
    few = (
        Image.open(path).convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    )
    few.save(path, optimize=True)


if __name__ == "__main__":
    main()
