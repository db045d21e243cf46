"""What a person does on the page, for tests and screenshots."""

from __future__ import annotations

from playwright.sync_api import Page, expect

LINES = ["a red fox", "the blue whale", "blue sky", "a blue whale, and a blue sky", "nothing of it"]


def paste(page: Page, text: str) -> None:
    page.locator("#paste").evaluate(
        """(field, text) => {
            const data = new DataTransfer();
            data.setData("text/plain", text);
            field.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        }""",
        text,
    )


def begin(page: Page, url: str, lines: list[str], query: str = "which whale is blue") -> None:
    """Opens the page with these documents instead of the sample."""
    page.goto(url)
    page.get_by_role("button", name="Clear").click()
    paste(page, "\n".join([*lines, ""]))
    expect(page.locator("#document-count")).to_have_text(f"{len(lines):,}")
    page.get_by_label("Query", exact=True).fill(query)


def rank(page: Page) -> None:
    page.locator("#rank").click()
    expect(page.locator("#rank")).to_have_text("Rank")
    expect(page.locator("#result")).to_be_visible()


def show(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view).click()
