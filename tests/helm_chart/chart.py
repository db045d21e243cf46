"""The Helm chart, rendered by helm itself; tests that need it are skipped where it is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reranker_serve.environment import load_settings
from reranker_serve.settings import Settings

CHART = Path(__file__).parents[2] / "deploy" / "helm"
RELEASE, NAMESPACE = "search", "retrieval"
NAME = f"{RELEASE}-reranker-serve"

_PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
HELM = shutil.which("helm", path=_PLACES)
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed (helm-binary of requirements-dev.txt)")

Values = dict[str, Any]
Manifest = dict[str, Any]


def helm(*arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm on the chart, with `values` over those of its file."""
    command, chart, *options = arguments
    with_values = ["--values", "-"] if values is not None else []
    return subprocess.run(
        [str(HELM), command, *([RELEASE] if command == "template" else []), chart, *options, *with_values],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
    )


def manifests(values: Values | None = None, *options: str) -> list[Manifest]:
    """All objects that the values make."""
    done = helm("template", str(CHART), "--namespace", NAMESPACE, *options, values=values or {})
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def rendered(values: Values | None = None, *options: str) -> dict[str, Manifest]:
    """The same by their kind, of which each is there once."""
    found = manifests(values, *options)
    by_kind = {manifest["kind"]: manifest for manifest in found}
    assert len(by_kind) == len(found)
    return by_kind


def refusal(values: Values) -> str:
    """What helm says to values that it refuses."""
    done = helm("template", str(CHART), values=values)
    assert done.returncode != 0, "nothing was refused"
    return done.stderr


def pod(values: Values | None = None) -> Manifest:
    """The pod's spec."""
    spec: Manifest = rendered(values)["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(values: Values | None = None) -> Manifest:
    """The server's container."""
    found: Manifest = pod(values)["containers"][0]
    return found


def variables(of: Manifest) -> dict[str, str]:
    """A container's variables, without those from Secrets."""
    assert len({entry["name"] for entry in of["env"]}) == len(of["env"])
    return {entry["name"]: entry["value"] for entry in of["env"] if "value" in entry}


def containers(spec: Manifest) -> list[Manifest]:
    """All containers of a pod, the first ones first."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def settings_of(of: Manifest) -> Settings:
    """What the server makes of a container's variables; it warns of none."""
    settings, warnings = load_settings(variables(of), env_file=Path("/nonexistent"))
    assert warnings == []
    return settings


EVERYTHING: Values = {
    "image": {"repository": "registry.example.com/reranker-serve", "pullSecrets": ["pull"]},
    "model": {
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "initDownload": True,
        "tokenSecret": {"name": "hub"},
        "volume": {"claim": {"create": True, "storageClass": "shared"}},
    },
    "settings": {
        "max_length": 1024,
        "max_queue_tokens": 3_000_000,
        "max_queue_seconds": 12.5,
        "strict_model": True,
        "rate_limit": "600 requests, 1000000 tokens",
        "log_format": "json",
    },
    "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel:4318"}],
    "keys": {"secret": "keys"},
    "tls": {"secret": "tls"},
    "gpu": {"count": 2, "runtimeClassName": "nvidia"},
    "autoscaling": {
        "enabled": True,
        "targetWaitingSeconds": 20,
        "prometheus": {
            "serverAddress": "http://prometheus:9090",
            "authentication": "prometheus",
            "authModes": "bearer",
        },
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "keySecret": {"name": "one-key"}},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 4318}]}],
    },
    "service": {"annotations": {"a": "b"}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
    "priorityClassName": "high",
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "extraVolumes": [{"name": "calibration", "configMap": {"name": "calibration"}}],
    "extraVolumeMounts": [{"name": "calibration", "mountPath": "/calibration"}],
}
OWN_CLAIM: Values = {"model": {"volume": {"existingClaim": "models"}}, "replicas": 3, "fullnameOverride": "rerank"}
OWN_IMAGE: Values = {
    "model": {"path": "/opt/model"},
    "networkPolicy": {"enabled": True},
    "serviceAccount": {"name": "mine"},
    "podDisruptionBudget": {"enabled": False},
    "resources": {"requests": {"cpu": "3500m", "memory": "2Gi"}, "limits": {"cpu": 4, "memory": "2Gi"}},
}
ONE_POD: Values = {
    "model": {"volume": {"claim": {"create": True, "accessMode": "ReadWriteOnce"}}},
    "strategy": {"type": "Recreate"},
}
EXAMPLES: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "own claim": OWN_CLAIM,
    "own image": OWN_IMAGE,
    "one pod": ONE_POD,
}

every_example = pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)
