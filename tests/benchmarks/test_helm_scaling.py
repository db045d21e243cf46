"""The autoscaling of the Helm chart on a virtual clock: seconds of simulation, no timing of this machine."""

from __future__ import annotations

import pytest

from benchmarks.helm_scaling import BUSY_S, WAITING_S, Rule, of_the_chart, simulate
from tests.helm_chart.chart import EVERYTHING, needs_helm, rendered

SIZE = "0.4 s, some ten times as long"


@needs_helm
def test_the_chart_does_what_is_simulated() -> None:
    rule = of_the_chart()
    autoscaling = {**EVERYTHING["autoscaling"], "targetWaitingSeconds": rule.waiting}
    spec = rendered({**EVERYTHING, "autoscaling": autoscaling})["ScaledObject"]["spec"]
    busy, waiting = (trigger["metadata"] for trigger in spec["triggers"])
    assert (float(busy["threshold"]), float(waiting["threshold"])) == (rule.busy, rule.waiting)
    assert f"> bool 0)[{BUSY_S / 60:.0f}m:15s]" in busy["query"]
    assert f")[{WAITING_S / 60:.0f}m:15s]" in waiting["query"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["policies"] == [{"type": "Percent", "value": 100, "periodSeconds": rule.start_seconds}]
    assert behavior["scaleDown"] == {"stabilizationWindowSeconds": 300}


@pytest.mark.parametrize("alone", [1.0, 10.0])
def test_busy_pods_tell_more_than_waiting_seconds_alone(alone: float) -> None:
    chart = simulate(of_the_chart(), SIZE, choices=2, hours=2.0)
    waiting = simulate(Rule(0, alone), SIZE, choices=2, hours=2.0)
    assert chart.resized < waiting.resized / 2
    assert chart.p99 < waiting.p99
    assert chart.needed < chart.pods < 2 * chart.needed


def test_a_surge_that_the_pods_cannot_foresee_is_refused_until_there_are_more() -> None:
    surge = simulate(of_the_chart(), SIZE, choices=2, surge=3.0, hours=2.0)
    assert 0 < surge.refused < 0.05
