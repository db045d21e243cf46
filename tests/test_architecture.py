"""Imports point one way, and importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import reranker_serve

PACKAGE = Path(reranker_serve.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Lower layers first; a module imports from its own layer or below.
LAYERS = [
    ["types", "places", "layers", "readouts", "errors", "collection", "model_names", "weight_formats", "variables"],
    ["settings", "environment", "rates", "telemetry", "keys", "checkpoint", "published", "calibration", "judgments"],
    ["families", "backends"],
    ["engine", "cache", "sentences"],
    ["encoding"],
    ["scoring"],
    ["spans"],
    ["service", "loader", "model_files"],
    ["lifecycle"],
    ["api"],
    ["app"],
    ["connections", "replies", "upgrades"],
    ["process"],
    ["workers"],
    ["server"],
    ["ready", "daemon", "demo", "tools", "scale"],
    ["cli"],
    ["__main__"],
]
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}
APART = [
    ("families", "backends"),
    ("backends", "families"),
    ("engine", "families"),
    ("engine", "backends"),
    ("engine", "settings"),
    ("api", "engine"),
    ("api", "families"),
    ("api", "backends"),
    ("service", "loader"),
    ("service", "model_files"),
    ("model_files", "loader"),
]
HEAVY = {"torch", "transformers"}


def part(path: Path) -> str:
    """The part of the package a file belongs to: `api/body.py` -> `api`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_parts(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("reranker_serve.")}
    return names & LAYER.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    name = part(path)
    if name == "__init__":
        assert not imports(path)
        return
    assert name in LAYER, f"{name} has no place in the import table"
    for other in own_parts(path):
        assert LAYER[other] <= LAYER[name], f"{name} imports {other}"
        assert (name, other) not in APART, f"{name} imports {other}"


def module_name(path: Path) -> str:
    return ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def test_no_import_goes_round_in_a_circle() -> None:
    """A lazy import counts, too: it hides a circle, and does not open it. Raises `CycleError` with the names."""
    names = {module_name(path) for path in MODULES}
    TopologicalSorter({module_name(path): imports(path) & names for path in MODULES}).prepare()


def test_only_the_backends_and_what_reads_text_know_torch_and_transformers() -> None:
    knowing = {str(path.relative_to(PACKAGE)) for path in MODULES if {n.split(".")[0] for n in imports(path)} & HEAVY}
    assert {path for path in knowing if not path.startswith("backends/torch/")} == {
        "backends/cpu/int8.py",
        "backends/cpu/linear.py",
        "backends/cpu/mapped_weights.py",
        "backends/cpu/products.py",
        "families/chat_template.py",
        "families/native_tokenizer.py",
    }


def test_what_is_for_a_cpu_knows_nothing_of_what_runs_on_it() -> None:
    for path in (PACKAGE / "backends" / "cpu").glob("*.py"):
        assert not [name for name in imports(path) if name.startswith("reranker_serve.backends.torch")], path


def test_only_the_settings_read_the_environment() -> None:
    # Elsewhere variables are set for libraries that read them, or a library's own one is read.
    reading = {str(path.relative_to(PACKAGE)) for path in MODULES if "os.environ" in path.read_text()}
    assert reading == {
        "environment.py",
        "loader.py",
        "model_files/find.py",
        "server.py",
        "workers.py",
        "cli.py",
        "telemetry/folder.py",
        "telemetry/metrics.py",
        "telemetry/setup.py",
    }


def test_nothing_in_the_package_depends_on_the_fake_scorer() -> None:
    using = [path for path in MODULES if "reranker_serve.backends.fake" in imports(path)]
    assert using == []


def run_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that is evaluated when its module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "__name__ == '__main__'":
            continue
        yield child
        yield from run_on_import(child)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_importing_a_module_reads_no_environment_and_configures_no_logging(path: Path) -> None:
    if path.name == "__main__.py":
        return  # runs the command line, which is its purpose
    names = {node.attr for node in run_on_import(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    calls = [
        ast.unparse(node.func) for node in run_on_import(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    assert not names & {"environ", "getenv", "basicConfig", "setLevel", "addHandler", "captureWarnings"}
    assert not {name.split(".")[-1] for name in calls} & {"load_settings", "configure_logging", "create_app", "open"}


def test_importing_the_application_loads_no_torch_and_configures_nothing() -> None:
    probe = (
        "import logging, os, sys, threading\n"
        "before = dict(os.environ)\n"
        "import reranker_serve.app\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'reranker_serve.judgments'}\n"
        "assert not heavy & set(sys.modules), 'heavy modules'\n"
        "assert dict(os.environ) == before, 'environment'\n"
        "assert not logging.getLogger().handlers, 'logging'\n"
        "assert not logging.getLogger('reranker_serve').handlers, 'logging'\n"
        "assert threading.active_count() == 1, 'threads'\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_files_and_functions_stay_small() -> None:
    for path in MODULES:
        text = path.read_text()
        assert text.count("\n") <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 70, f"{path}: {node.name}"


def test_the_policy_of_a_fleet_needs_nothing_but_the_standard_library() -> None:
    found = {name.split(".")[0] for name in imports(PACKAGE / "scale" / "policy.py")}
    assert found <= sys.stdlib_module_names
    assert not found & {"time", "datetime", "asyncio", "threading", "os", "socket"}
