"""Comparing, judging, and looking at what is served, on the page; and what holds of all views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright import sync_api

from reranker_serve.judgments.read import Source, read
from tests.server.processes import FAKE_SERVER, Server, running
from tests.web.steps import LINES, begin, rank, show

expect = sync_api.expect
VIEWS = ["Try", "Compare", "Judge", "Serve"]


def judge_five(page: sync_api.Page) -> None:
    for place, label in enumerate([1, 1, 0, 0, 1]):
        page.locator(f"#ranking tbody tr:nth-child({place + 1}) .thumb[data-label='{label}']").click()


def saved(page: sync_api.Page, button: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("button", name=button).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def test_judgments_are_exported_as_the_tools_read_them_and_imported_again(
    page: sync_api.Page, server: Server, tmp_path: Path
) -> None:
    begin(page, server.url, LINES)
    rank(page)
    judge_five(page)
    show(page, "Judge")
    expect(page.locator("#judgment-summary")).to_have_text("5 judgments of 1 query: 3 relevant, 2 not.")
    labels = saved(page, "JSON Lines", tmp_path)
    beir, trec = (saved(page, name, tmp_path) for name in ("BEIR folder", "TREC qrels"))
    for archive in (beir, trec):
        ZipFile(archive).extractall(tmp_path / archive.stem)
    folder = tmp_path / trec.stem
    sources = [
        Source(labels),
        Source(tmp_path / beir.stem),
        Source(folder / "qrels.txt", corpus=folder / "corpus.jsonl", topics=folder / "queries.jsonl"),
    ]
    for source in sources:
        judgments = read(source)
        assert list(judgments.queries.values()) == ["which whale is blue"]
        grades = next(iter(judgments.grades.values()))
        texts = judgments.documents.of(grades)
        assert {texts[name]: grade for name, grade in grades.items()} == {
            LINES[1]: 1, LINES[3]: 1, LINES[2]: 0, LINES[0]: 0, LINES[4]: 1,
        }  # fmt: skip
    for file in (labels, beir, trec):
        page.get_by_role("button", name="Clear all").click()
        expect(page.locator("#judgment-summary")).to_contain_text("Nothing is judged yet")
        page.locator("#import-file").set_input_files(file)
        expect(page.locator("#judgment-summary")).to_have_text("5 judgments of 1 query: 3 relevant, 2 not.")
    page.locator("#import-file").set_input_files({"name": "a.jsonl", "mimeType": "", "buffer": b'{"query": 1}\n'})
    expect(page.locator("#judge-note")).to_contain_text("a.jsonl, line 1: needs a query, a document")


def test_two_tabs_judge_together(page: sync_api.Page, context: sync_api.BrowserContext, server: Server) -> None:
    begin(page, server.url, LINES)
    rank(page)
    other = context.new_page()
    begin(other, server.url, LINES)
    rank(other)
    for tab, row in ((page, 1), (other, 2), (page, 3)):
        tab.locator(f"#ranking tbody tr:nth-child({row}) .thumb").first.click()
    for tab in (page, other):
        expect(tab.locator("#judged-count")).to_have_text("3")
        expect(tab.locator("#ranking .thumb[aria-pressed='true']")).to_have_count(3)


def test_two_lengths_are_compared(page: sync_api.Page, server: Server) -> None:
    begin(page, server.url, LINES)
    show(page, "Compare")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compare-problem")).to_contain_text("A and B ask for the same")
    page.locator("#b-length").fill("4")
    page.get_by_role("button", name="Compare").click()
    figures = page.locator("#figures")
    expect(figures).to_contain_text("Kendall tau")
    expect(figures).to_contain_text("in both top 5")
    assert page.locator("#comparison tbody tr").count() == 5


def test_tau_and_what_two_rankings_share(page: sync_api.Page, server: Server) -> None:
    page.goto(server.url)
    tau = "([a, b]) => import('./web/agreement.js').then(({ kendallTau }) => kendallTau(a, b))"
    assert page.evaluate(tau, [[0, 1, 2, 3], [0, 1, 2, 3]]) == 1
    assert page.evaluate(tau, [[0, 1, 2, 3], [3, 2, 1, 0]]) == -1
    assert page.evaluate(tau, [[4, 0, 2, 1, 3], [0, 4, 1, 2, 3]]) == pytest.approx(0.6)


@pytest.fixture
def other(server: Server, tmp_path: Path) -> Iterator[Server]:
    """A second server, which lets the page of the first call it."""
    with running(tmp_path, FAKE_SERVER, model_name="fake", api_key="theirs", cors_origins=server.url) as other:
        other.wait_ready()
        yield other


@pytest.mark.parametrize(
    "api", ["Cohere", "Text Embeddings Inference", "Voyage", "Mixedbread", "NVIDIA NIM", "Pinecone"]
)
def test_another_server_is_called_in_its_own_api(page: sync_api.Page, server: Server, other: Server, api: str) -> None:
    begin(page, server.url, LINES)
    show(page, "Compare")
    page.locator("#b-where").select_option("other")
    page.locator("#b-address").fill(other.url)
    page.locator("#b-api").select_option(api)
    page.locator("#b-key").fill("theirs")
    page.get_by_role("button", name="Compare").click()
    # The page is loaded anew with the other server in its policy, and goes on.
    expect(page.locator("#figures")).to_contain_text("Kendall tau")
    expect(page.locator("#figures div").first.locator("dd")).to_have_text("1.000")
    assert "theirs" not in page.url


def test_a_server_that_lets_no_page_call_it_is_plain_words(
    page: sync_api.Page, server: Server, locked_server: Server
) -> None:
    begin(page, server.url, LINES)
    show(page, "Compare")
    page.locator("#b-where").select_option("other")
    page.locator("#b-address").fill(locked_server.url)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compare-problem")).to_contain_text(f"RERANKER_CORS_ORIGINS={server.url}")


def test_what_is_served_and_its_cost(page: sync_api.Page, server: Server) -> None:
    httpx.post(f"{server.url}/rerank", json={"query": "a", "documents": ["a", "b"]})
    page.goto(f"{server.url}/#serve")
    expect(page.locator("#served")).to_contain_text("float32")
    expect(page.locator("#keys tbody")).to_contain_text("without a key")
    expect(page.locator("#costs tbody tr")).to_have_count(3)
    expect(page.locator("#costs tbody")).to_contain_text("$")


def test_usage_of_days_is_shown_where_a_file_keeps_it(page: sync_api.Page, server: Server, tmp_path: Path) -> None:
    page.goto(f"{server.url}/#serve")
    expect(page.locator("#served")).to_contain_text("float32")
    expect(page.locator("#usage-days")).to_be_hidden()
    settings = {"model_name": "fake", "usage_file": str(tmp_path / "usage.db"), "drain_delay": "0"}
    with running(tmp_path, FAKE_SERVER, **settings) as before:
        before.wait_ready()
        httpx.post(f"{before.url}/rerank", json={"query": "a", "documents": ["a", "b"]})
        assert before.terminate() == 0
    with running(tmp_path, FAKE_SERVER, **settings) as after:
        after.wait_ready()
        page.goto(f"{after.url}/#serve")
        expect(page.locator("#no-keys")).to_be_visible()
        for days in ("Last 30 days", "Today"):
            page.get_by_label("Usage of").select_option(days)
            expect(page.locator("#keys tbody")).to_contain_text("without a key12")  # one request, two documents
        page.evaluate(AXE_SCRIPT)
        assert page.evaluate("axe.run()")["violations"] == []
        page.get_by_label("Usage of").select_option("Since the start")
        expect(page.locator("#keys")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_view(page: sync_api.Page, server: Server, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    begin(page, server.url, LINES)
    rank(page)
    page.get_by_label("Threshold as a number").fill("0.6")
    judge_five(page)
    page.get_by_text("Options").click()
    show(page, "Compare")
    page.locator("#b-length").fill("4")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared")).to_be_visible()
    page.evaluate(AXE_SCRIPT)
    for view in VIEWS:
        show(page, view)
        page.wait_for_timeout(300)
        found = page.evaluate("axe.run()")
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == [], view


def test_nothing_is_wider_than_a_phone(page: sync_api.Page, server: Server) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    begin(page, server.url, ["w" * 500, *LINES])
    rank(page)
    judge_five(page)
    show(page, "Compare")
    page.locator("#b-length").fill("5")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#comparison tbody tr")).to_have_count(6)
    for view in VIEWS:
        show(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
    show(page, "Try")
    page.locator("#ranking .thumb").first.click()


@pytest.mark.alone
def test_a_thousand_documents_never_hold_the_page_up(page: sync_api.Page, server: Server) -> None:
    texts = [f"{LINES[at % 5]} " + "and what else one may say of whales " * (at % 20) for at in range(1000)]
    page.goto(server.url)
    page.evaluate(
        """window.long = [];
        new PerformanceObserver((list) => window.long.push(...list.getEntries().map((entry) => entry.duration)))
            .observe({ type: "longtask" });"""
    )
    begin_with = "\n".join(texts)
    page.locator("#file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": begin_with.encode()})
    expect(page.locator("#document-count")).to_have_text("1,000")
    page.get_by_label("Query", exact=True).fill("which whale is blue")
    rank(page)
    expect(page.locator("#result-summary")).to_contain_text("1,000 documents")
    page.get_by_label("Threshold as a number").fill("0.6")
    page.get_by_role("button", name="JSON").click()
    page.get_by_role("button", name="Table").click()
    page.locator("#more-results button").click()
    page.wait_for_timeout(500)
    assert [task for task in page.evaluate("window.long") if task > 100] == []


@pytest.mark.alone
def test_the_page_is_ready_at_once(page: sync_api.Page, server: Server) -> None:
    page.goto(server.url)
    page.goto(server.url)
    times = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert times < 1000  # 200 on a machine that does nothing else
