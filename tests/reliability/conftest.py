"""Figures that the tests measured, printed at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Report = Callable[..., None]
_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    lines = request.config.stash.setdefault(_FIGURES, [])

    def add(**figures: object) -> None:
        lines.append(f"{request.node.name}: " + ", ".join(f"{name}={value}" for name, value in figures.items()))

    return add


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.alone)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_FIGURES, []):
        terminalreporter.write_line(line)
