"""What the Helm chart makes of its values, by helm itself and the schemas of Kubernetes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from reranker_serve import __version__
from reranker_serve.environment import load_settings
from reranker_serve.settings import Settings
from tests.conftest import Connect
from tests.custom_resources import SCHEMAS
from tests.helm import (
    CHART,
    EVERYTHING,
    EXAMPLES,
    NAME,
    NAMESPACE,
    OWN_CLAIM,
    OWN_IMAGE,
    Manifest,
    Values,
    container,
    helm,
    manifests,
    needs_helm,
    pod,
    refusal,
    rendered,
    variables,
)
from tests.test_deploy import DOCKERFILE, RULES, series
from tests.write_helm_schema import ELSEWHERE, SCHEMA, generated, text

pytestmark = needs_helm

ABOUT = yaml.safe_load((CHART / "Chart.yaml").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
every_example = pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def settings_of(of: Manifest) -> Settings:
    """What the server makes of a container's variables; it warns of none."""
    settings, warnings = load_settings(variables(of), env_file=Path("/nonexistent"))
    assert warnings == []
    return settings


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


# Probes and draining.


async def test_probes_ask_what_the_server_answers(connect: Connect) -> None:
    probes = {kind: container()[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/live",  # so that no download is cut off
        "liveness": "/live",
        "readiness": "/ready",
    }
    async with connect() as client:
        for probe in probes.values():
            assert (await client.get(probe["path"])).status_code == 200
    assert {probe["scheme"] for probe in probes.values()} == {"HTTP"}
    assert container(EVERYTHING)["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"


@pytest.mark.parametrize(("delay", "timeout"), [(10, 60), (0, 30), (20.5, 120.5)])
def test_the_kubelet_waits_longer_than_draining_takes(delay: float, timeout: float) -> None:
    spec = pod({"drain": {"delaySeconds": delay, "timeoutSeconds": timeout}})
    settings = settings_of(spec["containers"][0])
    assert (settings.drain_delay, settings.drain_timeout) == (delay, timeout)
    assert timeout + 10 <= spec["terminationGracePeriodSeconds"] <= timeout + 11
    assert "lifecycle" not in spec["containers"][0]


def test_a_pod_that_goes_has_time_for_what_it_may_have_admitted() -> None:
    longest = Settings.model_fields["max_queue_seconds"].default
    assert pod({"drain": {"delaySeconds": 5, "timeoutSeconds": 5 + longest}})
    assert "drain.timeoutSeconds" in refusal({"drain": {"delaySeconds": 5, "timeoutSeconds": 4 + longest}})
    assert "at least 130" in refusal({"settings": {"max_queue_seconds": 120}})


# What a container may do.


@every_example
def test_pods_are_restricted(values: Values) -> None:
    """By the Pod Security Standards' strictest profile, and a root that nothing can be written to."""
    spec = pod(values)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for one in containers(spec):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@every_example
def test_what_is_written_to_is_a_volume(values: Values) -> None:
    spec = pod(values)
    kinds = {volume["name"]: set(volume) - {"name"} for volume in spec["volumes"]}
    for one in containers(spec):
        mounts = {mount["mountPath"]: kinds[mount["name"]] for mount in one["volumeMounts"]}
        assert mounts["/tmp"] == {"emptyDir"}
        assert mounts["/models"] <= {"emptyDir", "persistentVolumeClaim"}
        written = variables(one)
        assert written["HOME"] == "/tmp"
        assert written["HF_HOME"].startswith("/models/")
    assert settings_of(spec["containers"][0]).model_cache_dir == Path("/models")


def test_services_of_the_namespace_are_not_taken_for_options() -> None:
    assert pod()["enableServiceLinks"] is False


def test_keys_are_a_file_that_follows_its_secret() -> None:
    spec = pod(EVERYTHING)
    one = spec["containers"][0]
    mount = next(mount for mount in one["volumeMounts"] if mount["name"] == "keys")
    volume = next(volume for volume in spec["volumes"] if volume["name"] == "keys")
    assert settings_of(one).api_key_file == Path(mount["mountPath"]) / "keys"
    assert "subPath" not in mount
    assert volume["secret"] == {"secretName": "keys", "defaultMode": 0o440}
    assert settings_of(container()).needs_key is False


def test_a_certificate_serves_https() -> None:
    settings = settings_of(container(EVERYTHING))
    assert str(settings.tls_certfile).endswith("/tls/tls.crt")
    assert str(settings.tls_keyfile).endswith("/tls/tls.key")
    assert rendered(EVERYTHING)["ServiceMonitor"]["spec"]["endpoints"][0]["scheme"] == "https"


def test_the_network_is_open_for_what_is_needed() -> None:
    def ports(values: Values) -> list[int]:
        rules = rendered(values)["NetworkPolicy"]["spec"]["egress"]
        return [port["port"] for rule in rules for port in rule["ports"]]

    assert ports(EVERYTHING) == [53, 53, 443, 4318]
    assert ports(OWN_IMAGE) == [53, 53]
    ingress = rendered(EVERYTHING)["NetworkPolicy"]["spec"]["ingress"]
    assert ingress[0]["from"] == [{"podSelector": {}}, *EVERYTHING["networkPolicy"]["from"]]
    assert ingress[0]["ports"] == [{"port": "http"}]


# Options.


def test_options_arrive_as_they_were_given() -> None:
    settings = settings_of(container(EVERYTHING))
    assert {name: getattr(settings, name) for name in EVERYTHING["settings"]} == EVERYTHING["settings"]
    assert settings.model_revision == EVERYTHING["model"]["revision"]
    assert settings.device == "cuda"


def test_a_variable_of_ones_own_stands_once() -> None:
    one = container({"extraEnv": [{"name": "RERANKER_DRAIN_DELAY", "value": "3"}]})
    assert variables(one)["RERANKER_DRAIN_DELAY"] == "3"


@pytest.mark.parametrize(
    ("values", "threads"),
    [
        ({}, 4),
        ({"resources": {"requests": {"cpu": "3500m"}}}, 3),
        ({"resources": {"requests": {"cpu": "250m"}}}, 1),
        ({"resources": {"requests": {"cpu": 8}}, "settings": {"workers": 2}}, 4),
        ({"resources": {"limits": {"cpu": 2}}}, None),  # which the server reads itself
        ({"gpu": {"count": 1}}, None),
        ({"settings": {"cpu_threads": 6}}, 6),
    ],
)
def test_the_server_computes_on_the_cores_it_asks_for(values: Values, threads: int | None) -> None:
    assert settings_of(container(values)).cpu_threads == threads


def test_gpus_are_asked_for() -> None:
    assert container(EVERYTHING)["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in str(pod(EVERYTHING)["initContainers"])
    assert "gpu" not in str(pod())


# The model.


def test_downloads_are_kept_where_the_values_say() -> None:
    def models(values: Values) -> Any:
        return next(volume for volume in pod(values)["volumes"] if volume["name"] == "models")

    assert models({}) == {"name": "models", "emptyDir": {}}
    assert models({"model": {"volume": {"sizeLimit": "9Gi"}}})["emptyDir"] == {"sizeLimit": "9Gi"}
    assert models(OWN_CLAIM)["persistentVolumeClaim"] == {"claimName": "models"}
    assert models(EVERYTHING)["persistentVolumeClaim"] == {"claimName": f"{NAME}-models"}
    assert rendered(EVERYTHING)["PersistentVolumeClaim"]["metadata"]["name"] == f"{NAME}-models"


def test_an_init_container_downloads_and_the_server_needs_neither_hub_nor_token() -> None:
    spec = pod(EVERYTHING)
    assert "HF_TOKEN" in str(spec["initContainers"])
    assert "HF_TOKEN" not in str(spec["containers"])
    assert settings_of(spec["containers"][0]).use_offline_mode
    without = pod({"model": {"tokenSecret": {"name": "hub"}}})
    assert "HF_TOKEN" in str(without["containers"])
    assert "initContainers" not in without


def test_the_download_is_done_once(tmp_path: Path) -> None:
    """The init container's script itself, with a stand-in for the program it calls."""
    one = pod(EVERYTHING)["initContainers"][0]
    arguments = [argument.replace("/models", str(tmp_path / "models")) for argument in one["args"]]
    (tmp_path / "models").mkdir()
    program = tmp_path / "reranker-serve"
    log = tmp_path / "log"

    def run(fails: bool) -> int:
        program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{"exit 1" if fails else ""}\n')
        program.chmod(0o755)
        environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run([*one["command"], *arguments], env=environ, timeout=10).returncode

    assert [run(fails) for fails in (True, False, False)] == [1, 0, 0]
    wanted = f"download BAAI/bge-reranker-v2-m3 {tmp_path}/models --revision {EVERYTHING['model']['revision']}"
    assert log.read_text().splitlines() == [wanted, wanted]


# Scaling and watching.


async def test_pods_are_added_by_the_seconds_that_wait(connect: Connect) -> None:
    made = rendered(EVERYTHING)
    assert "replicas" not in made["Deployment"]["spec"]  # or an upgrade would undo what the autoscaler did
    assert rendered(OWN_CLAIM)["Deployment"]["spec"]["replicas"] == 3
    scaled = made["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == made["Deployment"]["metadata"]["name"]
    trigger = scaled["triggers"][0]
    metadata = trigger["metadata"]
    assert trigger["metricType"] == "AverageValue"
    assert metadata["threshold"] == "0.5"
    assert metadata["ignoreNullValues"] == "false"
    assert f'namespace="{NAMESPACE}",service="{made["Service"]["metadata"]["name"]}"' in metadata["query"]
    assert set(re.findall(r"reranker_\w+", metadata["query"])) <= await series(connect)


def test_a_query_of_ones_own_is_taken_as_it_is() -> None:
    query = 'sum(reranker_waiting_seconds{job="x"})'
    values = {"autoscaling": {**EVERYTHING["autoscaling"], "query": query}}
    assert rendered(values)["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"] == query


def test_prometheus_finds_the_pods_under_the_job_of_the_alerts() -> None:
    made = rendered(EVERYTHING)
    spec = made["ServiceMonitor"]["spec"]
    labels = made["Service"]["metadata"]["labels"]
    jobs = {job for rule in RULES for job in re.findall(r'job="([\w-]+)"', rule["expr"])}
    assert jobs == {labels[spec["jobLabel"]]}
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert spec["endpoints"][0]["port"] == made["Service"]["spec"]["ports"][0]["name"]
    assert spec["endpoints"][0]["authorization"] == {"credentials": {"name": "one-key", "key": "key"}}
    assert made["ServiceMonitor"]["metadata"]["labels"]["release"] == "prometheus"


def test_a_node_can_be_emptied_also_of_a_single_pod() -> None:
    budget = rendered()["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


# What is refused.


def test_the_schema_has_the_options_as_they_are() -> None:
    assert SCHEMA.read_text() == text(), "run python -m tests.write_helm_schema"
    assert set(generated()) | set(ELSEWHERE) == set(Settings.model_fields)


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
        ({"settings": {"enable_metrics": False}, "serviceMonitor": {"enabled": True}}, "settings.enable_metrics"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Values, said: str) -> None:
    assert said in refusal(values)


def test_the_chart_can_be_part_of_another() -> None:
    """Which puts `global` among its values."""
    assert rendered({"global": {"registry": "x"}})
