"""The only reader of the environment and `.env`: variables and options, each under the name of the other."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from reranker_serve.errors import SettingsError
from reranker_serve.settings import Settings
from reranker_serve.variables import PREFIX, read_variables

_SECRETS = {"api_key", "limits_url"}


def load_settings(
    environ: Mapping[str, str] | None = None, env_file: Path = Path(".env")
) -> tuple[Settings, list[str]]:
    """Read settings from the environment over `.env`; also returns warnings for the log.

    Empty values count as not set. Raises `SettingsError` with one line.
    """
    found, warnings = read_variables(os.environ if environ is None else environ, env_file)
    values: dict[str, str] = {}
    for name, value in found.items():
        field = name.removeprefix(PREFIX).lower()
        if field in Settings.model_fields:
            values[field] = value
        else:
            warnings.append(_unknown(name))
    try:
        return Settings.model_validate(values), warnings
    except ValidationError as error:
        raise SettingsError(_one_line(error, values)) from None


def environment_name(field: str) -> str:
    """`max_length` -> `RERANKER_MAX_LENGTH`."""
    return PREFIX + field.upper()


def markdown_table() -> str:
    """The settings table of the README."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, Path):
            default = f"./{default}"
        elif isinstance(default, bool):
            default = str(default).lower()
        shown = "none" if default is None else f"`{default}`"
        rows.append(f"| `{environment_name(name)}` | {shown} | {field.description} |")
    return "\n".join(rows)


def _unknown(name: str) -> str:
    known = [environment_name(field) for field in Settings.model_fields]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown setting {name} is ignored; the nearest known one is {near[0]}"


def _one_line(error: ValidationError, values: Mapping[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = "***" if field in _SECRETS else repr(values.get(field, str(Settings.model_fields[field].default)))
    return f"{environment_name(field)}={given} is not valid: it {reason}"
