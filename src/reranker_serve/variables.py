"""The variables that are meant for this server, in an environment and in `.env`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from reranker_serve.errors import SettingsError

PREFIX = "RERANKER_"

# Kubernetes describes a Service called `reranker` to every pod of its namespace by these names.
_KUBERNETES_NAME = re.compile(r"RERANKER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp)://")


def read_variables(environ: Mapping[str, str], env_file: Path) -> tuple[dict[str, str], list[str]]:
    """Those with our prefix that are not empty, the environment's over the file's; and warnings.

    Raises `SettingsError` if the file cannot be read.
    """
    found = dict(_prefixed(_read_env_file(env_file)))
    found.update(_prefixed(environ))
    return found, _drop_kubernetes(found)


def _read_env_file(path: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(path) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None


def _prefixed(source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in source.items():
        if name.upper().startswith(PREFIX) and value is not None and value.strip():
            yield name.upper(), value.strip()


def _drop_kubernetes(found: dict[str, str]) -> list[str]:
    names = [name for name in found if _KUBERNETES_NAME.fullmatch(name)]
    if _KUBERNETES_PORT.match(found.get("RERANKER_PORT", "")):
        names.append("RERANKER_PORT")
    shown = ", ".join(f"{name}={found.pop(name)}" if name == "RERANKER_PORT" else name for name in names)
    for name in names:
        found.pop(name, None)
    if not names:
        return []
    return [
        f"ignoring {shown}: Kubernetes sets these beside a Service named 'reranker'. Put"
        " 'enableServiceLinks: false' in the pod spec, or set RERANKER_PORT to a number yourself."
    ]
