"""How many pods of the Helm chart there are, and who watches them."""

from __future__ import annotations

import re

from tests.conftest import Connect
from tests.helm_chart.chart import EVERYTHING, NAMESPACE, OWN_CLAIM, needs_helm, rendered
from tests.test_deploy import RULES, series

pytestmark = needs_helm


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
