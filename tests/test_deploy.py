"""The files of deployment name what exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from reranker_serve import __version__
from reranker_serve.cli import _parser
from reranker_serve.environment import environment_name
from reranker_serve.settings import Settings
from tests.conftest import Connect

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
UNIT = (ROOT / "deploy/systemd/reranker-serve.service").read_text()
RULES = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
PANELS = json.loads((ROOT / "deploy/grafana/reranker-serve.json").read_text())["panels"]
LOADING = ["Dockerfile", "compose.yaml", "deploy/systemd/reranker-serve.service", "docs/operations.md"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in RULES]


async def series(connect: Connect) -> set[str]:
    """Every series the server exposes, without labels: with the _bucket, _sum and _count of histograms."""
    async with connect() as client:
        await client.post("/rerank", json={"query": "a", "documents": ["a"]})
        await client.post("/rerank", json={})
        return set(re.findall(r"^(reranker_\w+)", (await client.get("/metrics")).text, re.MULTILINE))


async def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist(connect: Connect) -> None:
    existing = await series(connect)
    asked = [set(re.findall(r"\breranker_\w+", expression)) for expression in EXPRESSIONS]
    assert [names for names in asked if not names <= existing] == []
    assert len(set().union(*asked)) >= 10


async def test_the_dashboard_shows_every_metric(connect: Connect) -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    async with connect() as client:
        text = (await client.get("/metrics")).text
    families = set(re.findall(r"^# TYPE (reranker_\w+(?<!_created)) ", text, re.MULTILINE))
    assert [name for name in families if name not in shown] == []


async def test_the_labels_of_the_alerts_exist(connect: Connect) -> None:
    from reranker_serve import errors

    kinds = {kind for expression in EXPRESSIONS for kind in re.findall(r'kind="(\w+)"', expression)}
    assert kinds
    assert [kind for kind in kinds if not issubclass(getattr(errors, kind), errors.RequestError)] == []


def test_every_alert_is_documented() -> None:
    documented = set(re.findall(r"\| `(Reranker\w+)` \|", (ROOT / "docs/operations.md").read_text()))
    assert documented == {rule["alert"] for rule in RULES}
    assert all(rule["annotations"]["summary"] for rule in RULES)


@pytest.mark.parametrize("name", LOADING)
def test_variables_are_real_settings(name: str) -> None:
    known = {environment_name(field) for field in Settings.model_fields}
    used = set(re.findall(r"\bRERANKER_[A-Z_]+\b", (ROOT / name).read_text()))
    assert used
    assert used <= known


def test_what_the_dockerfile_copies_exists_and_is_sent() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert len(copied) >= 6
    for source in copied:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) or source.startswith(f"{pattern}/") for pattern in sent), source


def test_the_images_are_targets_of_the_dockerfile_and_run_as_nobody_in_particular() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    for service in COMPOSE["services"].values():
        assert service["build"]["target"] in stages
        assert service["image"] == f"reranker-serve:{__version__}-{service['build']['target']}"
    used = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) + re.findall(r"--from=(\S+)", DOCKERFILE)
    assert {name for name in used if ":" not in name} <= set(stages)
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001"]


def test_the_commands_are_ones_of_the_command_line() -> None:
    entry, command = (
        json.loads(re.findall(rf"^{word} (\[.+\])$", DOCKERFILE, re.MULTILINE)[0]) for word in ("ENTRYPOINT", "CMD")
    )
    unit = shlex.split(re.findall(r"^ExecStart=(.+)$", UNIT, re.MULTILINE)[0])
    scripts = (ROOT / "pyproject.toml").read_text()
    for program, arguments in ((entry[0], command), (Path(unit[0]).name, unit[1:])):
        assert f"{program} = " in scripts
        assert callable(_parser().parse_args(arguments).run)


def test_supervisors_wait_longer_than_draining_may_take() -> None:
    timeout = Settings.model_fields["drain_timeout"].default
    graces = [int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[0])]
    graces += [int(service["stop_grace_period"].removesuffix("s")) for service in COMPOSE["services"].values()]
    assert min(graces) > timeout


def test_the_pins_that_the_dockerfile_takes_from_the_requirements_are_there() -> None:
    assert re.search(r"^torch==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    extras = re.findall(r"^(?:tracing|redis) = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    wanted = set(re.findall(r'"([a-z-]+)', " ".join(extras)))
    taken = re.findall(r"grep -E '\^\((\S+)\)' requirements-dev.txt", DOCKERFILE)[0]
    pinned = set(re.findall(rf"^((?:{taken})[\w-]*)==", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE))
    assert len(wanted) == 4
    assert wanted == pinned
