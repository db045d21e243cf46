"""Writes the server's options into the schema of the Helm chart's values.

python -m tests.write_helm_schema
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reranker_serve.settings import Settings

SCHEMA = Path(__file__).parents[1] / "deploy" / "helm" / "values.schema.json"

# What the chart sets from other values of its own.
ELSEWHERE = {
    "host": "service",
    "port": "service",
    "model_name": "model.name",
    "model_path": "model.path",
    "model_revision": "model.revision",
    "model_cache_dir": "model.volume",
    "api_key_file": "keys",
    "tls_certfile": "tls",
    "tls_keyfile": "tls",
    "drain_delay": "drain.delaySeconds",
    "drain_timeout": "drain.timeoutSeconds",
}


def generated() -> dict[str, Any]:
    """The schema of `settings`: each option with the type, the bounds and the sentence it has in the server."""
    options = Settings.model_json_schema()["properties"]
    kept = {name: schema for name, schema in options.items() if name not in ELSEWHERE and not _is_secret(schema)}
    return {name: _option(schema) for name, schema in kept.items()}


def _is_secret(schema: dict[str, Any]) -> bool:
    """What must not stand among values, which are kept as they are: it comes from a Secret by `extraEnv`."""
    return any(kind.get("writeOnly", False) for kind in schema.get("anyOf", [schema]))


def _option(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what JSON Schema has no word for: titles of pydantic, formats of paths."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "format", "anyOf")}
    if "anyOf" in schema:
        kept["anyOf"] = [_option(kind) for kind in schema["anyOf"]]
    return kept


def text() -> str:
    """The whole file, with the options as they are now."""
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["settings"]["properties"] = generated()
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text())
