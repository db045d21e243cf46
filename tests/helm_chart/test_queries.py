"""What the queries of the chart's autoscaling give, by Prometheus' own tool (`apt-get install prometheus`)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helm_chart.chart import EVERYTHING, NAMESPACE, needs_helm, rendered
from tests.test_deploy import ROOT

PROMTOOL = shutil.which("promtool")
pytestmark = [needs_helm, pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, timeout=60)


def test_the_alerts_are_rules() -> None:
    done = promtool("check", "rules", str(ROOT / "deploy/prometheus/alerts.yml"))
    assert done.returncode == 0, done.stderr


def test_pods_are_counted_while_they_compute_and_only_while_they_are_there(tmp_path: Path) -> None:
    made = rendered(EVERYTHING)
    busy, waiting = (trigger["metadata"]["query"] for trigger in made["ScaledObject"]["spec"]["triggers"])
    labels = f'namespace="{NAMESPACE}",service="{made["Service"]["metadata"]["name"]}"'
    gauges = {
        f'reranker_waiting_seconds{{{labels},pod="always"}}': "2x80",
        f'reranker_waiting_seconds{{{labels},pod="half"}}': "0 4 " * 40,
        f'reranker_waiting_seconds{{{labels},pod="gone after ten minutes"}}': "1x40 stale",
        'reranker_waiting_seconds{namespace="another",service="another",pod="x"}': "30x80",
    }

    def expect(query: str, at: str, value: float) -> dict[str, object]:
        return {"expr": query, "eval_time": at, "exp_samples": [{"labels": "{}", "value": value}]}

    # Between two scrapes: at one, versions of Prometheus differ in whether the window's first still counts.
    expected = [expect(busy, "9m7s", 2.5), expect(busy, "11m37s", 2.0), expect(busy, "18m7s", 1.5)]
    expected += [expect(waiting, "9m7s", 5), expect(waiting, "18m7s", 4)]
    series = [{"series": name, "values": values.strip()} for name, values in gauges.items()]
    test = {"interval": "15s", "input_series": series, "promql_expr_test": expected}
    (tmp_path / "tests.json").write_text(json.dumps({"evaluation_interval": "15s", "tests": [test]}))
    done = promtool("test", "rules", str(tmp_path / "tests.json"))
    assert done.returncode == 0, done.stdout + done.stderr
