"""The pod of the Helm chart: its probes, how it ends, what it may do, its options and its model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reranker_serve.settings import Settings
from tests.conftest import Connect
from tests.helm_chart.chart import (
    EVERYTHING,
    NAME,
    OWN_CLAIM,
    OWN_IMAGE,
    Values,
    container,
    containers,
    every_example,
    needs_helm,
    pod,
    refusal,
    rendered,
    settings_of,
    variables,
)

pytestmark = needs_helm


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


def test_the_cluster_may_choose_the_user() -> None:
    assert set(pod({"user": None})["securityContext"]) == {"runAsNonRoot", "seccompProfile"}
    assert "user" in refusal({"user": 0})


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
