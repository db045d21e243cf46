"""Writes the generated part of `docs/api/<dialect>.md`: paths, fields, example, errors.

python -m tests.api.write_pages
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from reranker_serve.api.description import examples_of
from reranker_serve.api.dialect import Dialect
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.api.errors import STATUS, status_of
from reranker_serve.api.options import Options
from reranker_serve.errors import InvalidRequest, UnknownRoute
from tests.generated import write

FOLDER = Path(__file__).parents[2] / "docs" / "api"
WRITER = "tests/api/write_pages.py"


def page_of(dialect: Dialect) -> Path:
    return FOLDER / f"{dialect.name}.md"


def generated(dialect: Dialect) -> str:
    found = examples_of(dialect)
    request = json.dumps(next(iter(found["requests"].values())), indent=2, ensure_ascii=False)
    reply = json.dumps(found["reply"], indent=2, ensure_ascii=False)
    return "\n".join(
        [
            "Paths: " + ", ".join(f"`POST {path.replace('{model:path}', '{model}')}`" for path in dialect.paths) + ".",
            "",
            "## Request",
            "",
            "```json",
            request,
            "```",
            "",
            "| honoured field | also called | meaning |",
            "|---|---|---|",
            *(_row(name, dialect.body.model_fields[name]) for name in _fields(dialect)),
            "",
            _ignored(dialect),
            "",
            "## Reply",
            "",
            "The demo model's, to the request above:",
            "",
            "```json",
            reply,
            "```",
            "",
            "## Errors",
            "",
            "```json",
            json.dumps(_error(dialect), indent=2),
            "```",
            "",
            "| status | when |",
            "|---|---|",
            *_statuses(dialect),
            "",
        ]
    )


def _fields(dialect: Dialect) -> list[str]:
    """Its own fields first, then those of all APIs."""
    return sorted(dialect.body.model_fields, key=lambda name: name in Options.model_fields)


def _row(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [name]
    also = ", ".join(f"`{other}`" for other in names[1:])
    required = " (required)" if field.is_required() else ""
    return f"| `{names[0]}`{required} | {also} | {field.description} |"


def _ignored(dialect: Dialect) -> str:
    if not dialect.ignored:
        return "Other fields change nothing. None of this API's own is among them."
    return "Accepted, and changing nothing: " + ", ".join(f"`{name}`" for name in dialect.ignored) + "."


def _error(dialect: Dialect) -> Any:
    error = InvalidRequest("query is required", "query")
    return dialect.error(error, status_of(error, dialect.statuses))


def _statuses(dialect: Dialect) -> list[str]:
    rows: dict[int, list[str]] = {}
    for kind in (kind for kind in STATUS if kind is not UnknownRoute):
        said = " ".join((kind.__doc__ or "").split()).split(". ")[0].split("; ")[0].rstrip(".")
        rows.setdefault(_status(kind, dialect), []).append(said)
    return [f"| {status} | {'; '.join(said)} |" for status, said in sorted(rows.items()) if status not in (405, 499)]


def _status(kind: Any, dialect: Dialect) -> int:
    own = getattr(STATUS[kind], dialect.statuses)
    return STATUS[kind].usual if own is None else int(own)


def main() -> None:
    for dialect in DIALECTS:
        write(page_of(dialect), WRITER, generated(dialect))


if __name__ == "__main__":
    main()
