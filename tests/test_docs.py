"""What is not documented fails the suite."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.environment import environment_name, markdown_table
from reranker_serve.settings import Settings
from tests import write_performance_page
from tests.api.write_pages import generated, page_of
from tests.conftest import Connect
from tests.generated import marked

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = README + "".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))


def test_the_settings_table_of_the_readme_is_the_generated_one() -> None:
    assert markdown_table() in README, "paste what `reranker-serve settings` prints"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented(field: str) -> None:
    assert environment_name(field) in DOCS


async def test_every_endpoint_is_documented(connect: Connect) -> None:
    async with connect() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert len(paths) >= 10
    assert [path for path in paths if f"`{path}`" not in DOCS and f" {path}`" not in DOCS] == []


async def test_every_metric_is_documented_and_every_documented_one_exists(connect: Connect) -> None:
    async with connect() as client:
        exposition = (await client.get("/metrics")).text
    existing = set(re.findall(r"^# TYPE (reranker_\w+(?<!_created)) ", exposition, re.MULTILINE))
    documented = set(re.findall(r"\| `(reranker_\w+)` \|", (ROOT / "docs" / "metrics.md").read_text()))
    assert existing == documented


async def test_the_replies_of_the_readme_have_the_fields_of_real_ones(connect: Connect) -> None:
    bodies = re.findall(r"-d '(\{.*?\})'\n```", README, re.DOTALL)
    paths = re.findall(r"curl -s http://127\.0\.0\.1:8000(\S+)", README)
    replies = re.findall(r"```json\n(.*?)\n```", README, re.DOTALL)
    assert len(bodies) == len(paths) == len(replies) == 3
    async with connect() as client:
        for path, body, reply in zip(paths, bodies, replies, strict=True):
            got = await client.post(path, content=body)
            assert got.status_code == 200
            assert set(got.json()) == set(httpx.Response(200, content=reply).json())


def test_relative_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_has_a_page_with_its_fields_and_examples(dialect: Dialect) -> None:
    page = page_of(dialect).read_text()
    assert generated(dialect) in page, "run python -m tests.api.write_pages"
    assert "## Notes" in page


def test_every_dialect_is_in_the_readme_and_every_path_in_the_overview() -> None:
    overview = (ROOT / "docs" / "api.md").read_text()
    for dialect in DIALECTS:
        assert f"(docs/api/{dialect.name}.md)" in README
        assert f"(api/{dialect.name}.md)" in overview
        for path in dialect.paths:
            assert f"`{path.replace(':path', '')}`" in overview


def test_the_page_on_performance_has_the_generated_table_of_precisions() -> None:
    made = marked(write_performance_page.WRITER, write_performance_page.generated())
    assert made in write_performance_page.PAGE.read_text(), "run python -m tests.write_performance_page"
