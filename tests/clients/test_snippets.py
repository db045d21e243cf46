"""The snippets of docs/clients.md, as they stand there, against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_clients import installed

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
SNIPPETS = [(found[1], found[0]) for found in re.finditer(r"```python\n# ([\w-]+)\n.*?```", PAGE, re.DOTALL)]


@pytest.mark.parametrize(
    ("distribution", "snippet"),
    [pytest.param(name, text, id=f"{number}-{name}") for number, (name, text) in enumerate(SNIPPETS)],
)
def test_the_snippet_prints_the_better_document(
    distribution: str, snippet: str, server: str, open_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not installed(distribution):
        pytest.skip("not in this environment")
    code = snippet.removeprefix("```python\n").removesuffix("```")
    url = open_server if "xinference-rerank" in distribution else server
    exec(compile(code.replace("http://127.0.0.1:8000", url), distribution, "exec"), {})
    printed = capsys.readouterr().out
    assert "Photosynthesis" in printed or re.search(r"\b1 |'index': 1\b", printed)
    assert "stock market" not in printed


def test_there_is_a_snippet_for_every_client_in_the_table() -> None:
    rows = re.findall(r"^\| \[[^\]]+\]\(#([\w-]+)\)", PAGE, re.MULTILINE)
    headings = [heading.lower().replace(" ", "-") for heading in re.findall(r"^### (.+)$", PAGE, re.MULTILINE)]
    assert sorted(rows) == sorted(headings)
