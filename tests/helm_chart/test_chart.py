"""What the Helm chart makes of its values, by helm itself and the schemas of Kubernetes; and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from reranker_serve import __version__
from reranker_serve.settings import Settings
from tests.helm_chart.chart import (
    CHART,
    EVERYTHING,
    HELM,
    OWN_CLAIM,
    OWN_IMAGE,
    Values,
    container,
    every_example,
    helm,
    manifests,
    needs_helm,
    pod,
    refusal,
    rendered,
    settings_of,
)
from tests.helm_chart.custom_resources import SCHEMAS
from tests.test_deploy import DOCKERFILE
from tests.write_helm_schema import ELSEWHERE, SCHEMA, generated, text

pytestmark = needs_helm

ABOUT = yaml.safe_load((CHART / "Chart.yaml").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


@every_example
def test_helm_finds_no_fault(values: Values) -> None:
    done = helm("lint", str(CHART), "--strict", values=values)
    assert done.returncode == 0, done.stdout


@every_example
@pytest.mark.parametrize("version", [re.findall(r"\d+\.\d+", ABOUT["kubeVersion"])[0], "latest"])
def test_kubernetes_knows_every_field(values: Values, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    known = validator.latest_version() if version == "latest" else version
    checked = [manifest for manifest in manifests(values) if manifest["kind"] not in SCHEMAS]
    assert len(checked) >= 3
    for manifest in checked:
        validator.validate(manifest, known, strict=True)


def test_the_custom_resources_have_the_fields_they_need_and_no_others() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="kubernetes-validate is not installed")
    made = rendered(EVERYTHING)
    for kind, schema in SCHEMAS.items():
        jsonschema.validate(made[kind], schema)


def test_an_object_is_made_only_for_what_is_wanted() -> None:
    assert set(rendered()) == {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"}
    assert set(rendered(OWN_IMAGE)) == {"Deployment", "Service", "NetworkPolicy"}
    assert {"PersistentVolumeClaim", "ScaledObject", "ServiceMonitor"} <= set(rendered(EVERYTHING))


def test_the_chart_agrees_with_the_package_and_the_dockerfile() -> None:
    assert ABOUT["version"] == ABOUT["appVersion"] == __version__
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    for values, kind in (({}, "cpu"), ({"gpu": {"count": 1}}, "cuda")):
        assert kind in stages
        assert container(values)["image"] == f"reranker-serve:{__version__}-{kind}"
    assert container({"image": {"tag": "mine"}})["image"] == "reranker-serve:mine"
    assert re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE) == [str(pod()["securityContext"]["runAsUser"])]
    assert json.loads(re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)[0]) == container()["args"]
    assert container()["ports"] == [{"name": "http", "containerPort": settings_of(container()).port}]


def test_the_service_leads_to_the_pods() -> None:
    made = rendered(OWN_CLAIM)
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [made["Service"]["spec"]["selector"], made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    for selector in (*selectors, made["Deployment"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    assert made["Service"]["metadata"]["name"] == "rerank"
    assert made["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_the_schema_has_the_options_as_they_are() -> None:
    assert SCHEMA.read_text() == text(), "run python -m tests.write_helm_schema"
    assert not set(generated()) & set(ELSEWHERE)
    missing = set(Settings.model_fields) - set(generated()) - set(ELSEWHERE)
    assert [name for name in missing if "SecretStr" not in str(Settings.model_fields[name].annotation)] == []


def test_every_value_has_a_default_and_a_schema() -> None:
    def compare(values: Values, schema: Values, path: str) -> None:
        assert schema.get("additionalProperties") is False, path
        assert set(values) | {"global", "claims"} >= set(schema["properties"]), path
        for key, value in values.items():
            inner = schema["properties"][key]
            if isinstance(value, dict) and "properties" in inner and inner["properties"] and path + key != "settings":
                compare(value, inner, f"{path}{key}.")

    compare(VALUES, json.loads(SCHEMA.read_text()), "")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 2}, "replica"),
        ({"settings": {"max_lenght": 512}}, "max_lenght"),
        ({"settings": {"max_length": 4}}, "settings.max_length"),
        ({"settings": {"max_length": "long"}}, "settings.max_length"),
        ({"settings": {"port": 9000}}, "port"),
        ({"settings": {"api_key": "secret"}}, "api_key"),
        ({"keys": {"secret": "My Keys"}}, "keys.secret"),
        ({"autoscaling": {"minReplicas": 0}}, "autoscaling.minReplicas"),
        ({"autoscaling": {"enabled": True}}, "autoscaling.prometheus.serverAddress"),
        ({"autoscaling": {"maxReplicas": 1}}, "autoscaling.maxReplicas"),
        ({"resources": {"requests": {"cpu": "four"}}}, "resources.requests.cpu"),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "podDisruptionBudget.maxUnavailable"),
        ({"model": {"volume": {"claim": {"create": True, "accessMode": "ReadWriteOnce"}}}}, "strategy.type Recreate"),
        ({"model": {"path": "/opt/model", "initDownload": True}}, "model.initDownload"),
        ({"model": {"revision": "main", "initDownload": True}}, "model.revision"),
        ({"keys": {"secret": "k"}, "serviceMonitor": {"enabled": True}}, "serviceMonitor.keySecret.name"),
        (
            {"extraEnv": [{"name": "RERANKER_API_KEY_FILE", "value": "/k"}], "serviceMonitor": {"enabled": True}},
            "serviceMonitor.keySecret.name",
        ),
        ({"settings": {"enable_metrics": False}, "serviceMonitor": {"enabled": True}}, "settings.enable_metrics"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Values, said: str) -> None:
    assert said in refusal(values)


@pytest.mark.parametrize("name", ["on", "null", "1e5"])
def test_names_that_yaml_reads_as_something_else_stay_names(name: str) -> None:
    values = {
        "fullnameOverride": name,
        "image": {"pullSecrets": [name]},
        "model": {
            "tokenSecret": {"name": name, "key": name},
            "volume": {"claim": {"create": True, "storageClass": name}},
        },
        "keys": {"secret": name, "item": name},
        "tls": {"secret": name},
        "gpu": {"count": 1, "runtimeClassName": name},
        "priorityClassName": name,
        "autoscaling": {"enabled": True, "prometheus": {"serverAddress": "http://p", "authentication": name}},
        "serviceMonitor": {"enabled": True, "keySecret": {"name": name, "key": name}},
        "networkPolicy": {"enabled": True},
    }

    def check(value: object, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                check(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for inner in value:
                check(inner, path)
        elif re.search(r"name|Name|key|instance", path.rpartition(".")[2]):
            assert isinstance(value, str), path

    for manifest in manifests(values):
        check(manifest, manifest["kind"])
    names = {manifest["metadata"]["name"] for manifest in manifests({"serviceAccount": {"name": name}, **values})}
    assert names == {name, f"{name}-models"}
    released = subprocess.run([str(HELM), "template", name, str(CHART)], capture_output=True, text=True, check=True)
    labels = [manifest["metadata"]["labels"] for manifest in yaml.safe_load_all(released.stdout) if manifest]
    assert {each["app.kubernetes.io/instance"] for each in labels} == {name}


@pytest.mark.parametrize(
    ("values", "open_to_all"),
    [
        ({}, True),
        ({"keys": {"secret": "k"}}, False),
        ({"extraEnv": [{"name": "RERANKER_API_KEY", "value": "k"}]}, False),
    ],
)
def test_the_notes_say_whether_keys_are_asked_for(values: Values, open_to_all: bool, tmp_path: Path) -> None:
    """Helm shows notes only beside a cluster: here they are an object."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    (copy / "templates" / "notes.yaml").write_text(
        f'{{{{- define "notes" }}}}{notes}{{{{ end }}}}notes: {{{{ include "notes" . | toJson }}}}'
    )
    told = helm("template", str(copy), "--show-only", "templates/notes.yaml", values=values)
    assert told.returncode == 0, told.stderr
    assert ("Whoever reaches it may use it" in yaml.safe_load(told.stdout)["notes"]) == open_to_all


def test_the_chart_can_be_part_of_another() -> None:
    """Which puts `global` among its values."""
    assert rendered({"global": {"registry": "x"}})
