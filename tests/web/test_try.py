"""Ranking on the page, as a person does it: by mouse, by keyboard, with files, and when something is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright import sync_api

from tests.server.processes import FAKE_SERVER, Server, running
from tests.web.conftest import KEY
from tests.web.steps import LINES, begin, rank

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script></textarea>& &lt;b&gt; \u202e'


def rows(page: sync_api.Page) -> list[str]:
    return page.locator("#ranking .document").all_inner_texts()


def test_the_sample_is_ranked_at_the_first_press(page: sync_api.Page, server: Server) -> None:
    page.goto(server.url)
    rank(page)
    assert page.locator("#ranking tbody tr").count() == 12
    assert "12 documents" in page.locator("#result-summary").inner_text()
    assert "compute" in page.locator("#time-legend").inner_text()
    sync_api.expect(page.locator("#scale")).to_have_text("relevance_score = sigmoid(raw score)")


def test_pasted_lines_are_ranked_and_each_tells_how_far_it_moved(page: sync_api.Page, server: Server) -> None:
    begin(page, server.url, LINES)
    assert page.locator("#documents textarea").count() == 5
    rank(page)
    assert rows(page)[:3] == [LINES[1], LINES[3], LINES[2]]
    moved = page.locator("#ranking .moved").all_inner_texts()
    assert [re.sub(r"\s+", " ", text) for text in moved] == [
        "▲ 1 up 1 place",
        "▲ 2 up 2 places",
        "= same place",
        "▼ 3 down 3 places",
        "= same place",
    ]
    page.get_by_role("button", name="JSON").click()
    assert '"relevance_score"' in page.locator("#json-holder code").inner_text()


def test_the_keyboard_alone_is_enough(page: sync_api.Page, server: Server) -> None:
    page.goto(server.url)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "query":
            break
    page.keyboard.press("Control+A")
    page.keyboard.type("gift cards")
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#ranking tbody tr").first).to_contain_text("Gift cards")
    page.locator("#ranking .thumb").first.focus()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#ranking .thumb").first).to_have_attribute("aria-pressed", "true")


def test_a_threshold_dims_what_is_below_and_counts_what_stays(page: sync_api.Page, server: Server) -> None:
    begin(page, server.url, LINES)
    rank(page)
    page.get_by_label("Threshold as a number").fill("0.6")
    sync_api.expect(page.locator("#stays")).to_have_text("2 of 5 stay")
    sync_api.expect(page.locator("#ranking tr.below")).to_have_count(3)
    sync_api.expect(page.locator("#snippet")).to_contain_text('"min_score": 0.6')


def test_the_call_is_shown_for_each_client_as_one_types(page: sync_api.Page, server: Server) -> None:
    begin(page, server.url, LINES, query="")
    for name, mark in (
        ("curl", "curl -s"),
        ("httpx", "import httpx"),
        ("cohere", "cohere.ClientV2"),
        ("voyageai", "voyageai.Client"),
        ("LangChain", "CohereRerank"),
        ("LlamaIndex", "TextNode"),
        ("JavaScript", "await fetch"),
    ):
        page.locator("#languages").get_by_role("button", name=name, exact=True).click()
        sync_api.expect(page.locator("#snippet")).to_contain_text(mark)
        page.get_by_label("Query", exact=True).fill(f"it's {name}'s")
        sync_api.expect(page.locator("#snippet")).to_contain_text("it's" if name != "curl" else "it'\\''s")
        text = page.locator("#snippet").inner_text()
        assert server.url in text
        if "import " in text:
            compile(text, name, "exec")


def test_what_a_document_holds_is_shown_as_text(page: sync_api.Page, server: Server) -> None:
    begin(page, server.url, [HOSTILE, "plain"], query=HOSTILE)
    rank(page)
    page.locator("#ranking .thumb").first.click()
    assert HOSTILE in rows(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize(
    ("name", "content", "said", "texts"),
    [
        ("a.txt", "one\n\n two \r\nthree", "3 documents instead of the sample", ["one", "two", "three"]),
        ("a.csv", 'id,text\n1,"a ""b"", c"\n2,"d\ne"\n', "2 documents", ['a "b", c', "d\ne"]),
        (
            "a.csv",
            "x,long column\ny,longer column\n",
            "column 2, the longest, was taken",
            ["long column", "longer column"],
        ),
        (
            "corpus.jsonl",
            '{"_id": "1", "title": "T", "text": "u"}\n{"_id": "2", "text": "v"}\n',
            "2 documents",
            ["T u", "v"],
        ),
        ("a.json", '["p", {"content": "q"}]', "2 documents", ["p", "q"]),
        ("a.jsonl", '{"text": "u"}\n{oops\n', "a.jsonl, line 2: this is not JSON. Nothing was added.", None),
        ("a.csv", 'text\n"open', "Line 2: a quote is not closed. Nothing was added.", None),
        ("photo.png", "\x89PNG\0\0", "photo.png is no text file. Nothing was added", None),
        ("empty.txt", "\n", "empty.txt holds no text. Nothing was added.", None),
    ],
)
def test_files_are_read_or_told_why_not(
    page: sync_api.Page, server: Server, tmp_path: Path, name: str, content: str, said: str, texts: list[str] | None
) -> None:
    (tmp_path / name).write_text(content, newline="")
    page.goto(server.url)
    page.locator("#file").set_input_files(tmp_path / name)
    sync_api.expect(page.locator("#document-note")).to_contain_text(said)
    shown = page.locator("#documents textarea").evaluate_all("fields => fields.map(field => field.value)")
    assert shown == texts if texts else len(shown) == 12


def test_nothing_is_lost_by_mistake_or_by_reloading(page: sync_api.Page, server: Server) -> None:
    begin(page, server.url, LINES)
    page.get_by_role("button", name="Clear").click()
    sync_api.expect(page.locator("#documents textarea")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    sync_api.expect(page.locator("#documents textarea")).to_have_count(5)
    page.reload()
    sync_api.expect(page.locator("#documents textarea")).to_have_count(5)
    assert page.get_by_label("Query", exact=True).input_value() == "which whale is blue"


def test_the_key_is_asked_for_and_kept_for_the_session_only(page: sync_api.Page, locked_server: Server) -> None:
    page.goto(locked_server.url)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    sync_api.expect(dialog).to_contain_text("no longer accepts this key, or never did")
    dialog.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#state")).to_contain_text("fake")
    rank(page)
    assert KEY not in page.url
    assert page.evaluate("JSON.stringify(localStorage)").find(KEY) == -1
    # As after it was revoked.
    page.evaluate("sessionStorage.setItem('reranker-serve.key', 'revoked')")
    page.locator("#query").fill("gift cards")
    page.locator("#rank").click()
    dialog.get_by_role("button", name="Not now").click()
    sync_api.expect(page.locator("#problem")).to_have_text("This needs a key.")
    assert page.get_by_label("Query", exact=True).input_value() == "gift cards"


def test_a_stopped_server_is_plain_words_and_nothing_is_lost(page: sync_api.Page, tmp_path: Path) -> None:
    with running(tmp_path, FAKE_SERVER, model_name="fake") as own:
        own.wait_ready()
        begin(page, own.url, LINES)
        rank(page)
    page.locator("#rank").click()
    for shown in ("#problem", "#state"):
        sync_api.expect(page.locator(shown)).to_contain_text("The server does not answer")
    assert page.locator("#documents textarea").count() == 5
    assert page.locator("#ranking tbody tr").count() == 5


def test_a_call_can_be_cancelled(page: sync_api.Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDS_PER_BATCH", "3")
    with running(tmp_path, FAKE_SERVER, model_name="fake") as slow:
        slow.wait_ready()
        page.goto(slow.url)
        page.locator("#rank").click()
        page.get_by_role("button", name="Cancel").click()
        sync_api.expect(page.locator("#problem")).to_contain_text("Cancelled")


def test_a_text_that_is_refused_says_why(page: sync_api.Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_label("Query", exact=True).fill(" ")
    page.locator("#rank").click()
    sync_api.expect(page.locator("#problem")).to_have_text("Write a query first.")
    page.get_by_label("Query", exact=True).fill("whale")
    page.get_by_text("Options").click()
    page.locator("#max-length").fill("100000")
    page.locator("#query").press("Control+Enter")
    sync_api.expect(page.locator("#problem")).to_contain_text("max_length must be from")


@pytest.mark.parametrize("others", [["short"], []], ids=["beside a whole one", "all cut off"])
def test_where_a_text_is_cut_off_is_marked(page: sync_api.Page, server: Server, others: list[str]) -> None:
    # One token a word: of 20 four are the query's and one is between, so 15 words are read.
    begin(page, server.url, ["\U0001f600 " + " ".join(f"word{at}" for at in range(60)), *others])
    page.get_by_text("Options").click()
    page.locator("#max-length").fill("20")
    rank(page)
    cut = page.locator("#ranking tr", has=page.locator(".badge"))
    sync_api.expect(cut.locator(".badge")).to_contain_text("% was read")
    sync_api.expect(cut.locator(".scissors")).to_have_count(1)
    assert "cut off" in page.locator("#result-summary").inner_text()
    assert cut.locator(".unread").first.inner_text().strip().startswith("word14 word15")


def test_the_best_sentence_is_marked(page: sync_api.Page, server: Server) -> None:
    begin(page, server.url, ["\U0001f600 Seas are wide. The blue whale is blue. A whale, too.", "A fox. A hen."])
    rank(page)
    assert page.locator("#ranking tr").nth(1).locator("mark").inner_text() == "The blue whale is blue."
    page.get_by_text("Options").click()
    page.get_by_label("Mark the best sentence").uncheck()
    rank(page)
    sync_api.expect(page.locator("#ranking mark")).to_have_count(0)
