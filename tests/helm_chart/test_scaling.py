"""How many pods of the Helm chart there are, and who watches them."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Sequence

import httpx

from reranker_serve.backends.fake import FakeBackend
from reranker_serve.types import EncodedItem
from tests.conftest import Connect, Gate
from tests.helm_chart.chart import EVERYTHING, NAMESPACE, OWN_CLAIM, needs_helm, rendered
from tests.test_deploy import RULES, series

pytestmark = needs_helm


async def test_pods_are_added_by_the_seconds_that_wait(connect: Connect) -> None:
    made = rendered(EVERYTHING)
    assert "replicas" not in made["Deployment"]["spec"]  # or an upgrade would undo what the autoscaler did
    assert rendered(OWN_CLAIM)["Deployment"]["spec"]["replicas"] == 3
    scaled = made["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == made["Deployment"]["metadata"]["name"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 8)
    existing = await series(connect)
    for trigger in scaled["triggers"]:
        metadata = trigger["metadata"]
        assert trigger["metricType"] == "AverageValue"
        assert trigger["authenticationRef"] == {"name": "prometheus"}
        assert metadata["authModes"] == "bearer", "or KEDA sends nothing of what the reference holds"
        assert metadata["ignoreNullValues"] == "false"
        assert f'namespace="{NAMESPACE}",service="{made["Service"]["metadata"]["name"]}"' in metadata["query"]
        assert set(re.findall(r"reranker_\w+", metadata["query"])) <= existing
    assert [trigger["metadata"]["threshold"] for trigger in scaled["triggers"]] == ["0.7", "20"]


async def test_a_pod_that_computes_has_seconds_that_wait(connect: Connect) -> None:
    """By which pods that compute are counted. The first pass is left out: it tells how fast the pod is."""
    gate = Gate()
    passes = itertools.count()

    def compute(items: Sequence[EncodedItem]) -> None:
        if next(passes) > 0:
            gate(items)
        time.sleep(0.01)

    async with connect(FakeBackend(before_forward=compute)) as client:

        async def waiting() -> float:
            text = (await client.get("/metrics")).text
            return float(re.findall(r"^reranker_waiting_seconds (\S+)$", text, re.MULTILINE)[0])

        def call(document: str) -> Awaitable[httpx.Response]:
            return client.post("/rerank", json={"query": "a", "documents": [document]})

        assert (await call("first")).status_code == 200
        assert await waiting() == 0
        second = asyncio.ensure_future(call("second"))
        await gate.entered()
        assert await waiting() > 0
        gate.open()
        assert (await second).status_code == 200
        assert await waiting() == 0


def test_labels_of_ones_own_are_taken_as_they_are() -> None:
    prometheus = {"serverAddress": "http://x", "labels": 'job="rerank"'}
    spec = rendered({"autoscaling": {"enabled": True, "prometheus": prometheus}})["ScaledObject"]["spec"]
    assert all('reranker_waiting_seconds{job="rerank"}' in trigger["metadata"]["query"] for trigger in spec["triggers"])
    assert "authenticationRef" not in spec["triggers"][0]
    assert "authModes" not in spec["triggers"][0]["metadata"]


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
