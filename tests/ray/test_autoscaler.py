"""What Ray's controller tells the policy, and what becomes of it."""

from __future__ import annotations

from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingContext

from reranker_serve.scale.autoscaler import WaitingSecondsPolicy
from reranker_serve.scale.traffic import BUSY, WAITING

DEPLOYMENT = DeploymentID("Reranker", "reranker")


def context(now: float, replicas: int, waiting: float, busy: float = 0.0, requests: float = 0.0) -> AutoscalingContext:
    """Of so many replicas, each with so many seconds of waiting work, as of now and of a worse time before."""
    ids = [ReplicaID(str(number), DEPLOYMENT) for number in range(replicas)]
    series = {
        WAITING: {one: [TimeStampedValue(now - 9, 99.0), TimeStampedValue(now, waiting)] for one in ids},
        BUSY: {one: [TimeStampedValue(now - 9, 1.0), TimeStampedValue(now, busy)] for one in ids},
    }
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="Reranker",
        app_name="reranker",
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        running_replicas=ids,
        total_num_requests=requests,
        total_queued_requests=requests,
        aggregated_metrics={},
        raw_metrics=series if ids else {},
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=9,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=None,
    )


def test_seconds_that_wait_ask_for_more_after_the_delay() -> None:
    policy = WaitingSecondsPolicy(clock=iter([0.0, 6.0]).__next__, least=1, most=9, target_seconds=10, up_delay=5)
    assert policy(context(0, replicas=2, waiting=30, busy=1))[0] == 2
    assert policy(context(6, replicas=2, waiting=30, busy=1))[0] >= 6


def test_a_calendar_clock_that_is_set_back_changes_nothing() -> None:
    policy = WaitingSecondsPolicy(clock=iter([0.0, 0.1, 6.0]).__next__, least=1, most=9, target_seconds=10, up_delay=5)
    assert policy(context(7200, replicas=2, waiting=0, busy=1))[0] == 2
    assert policy(context(0, replicas=2, waiting=0, busy=0))[0] == 2
    assert policy(context(6, replicas=2, waiting=0, busy=0))[0] == 2


def test_the_newest_report_counts() -> None:
    policy = WaitingSecondsPolicy(least=1, most=9, target_seconds=10, up_delay=0)
    assert policy(context(0, replicas=2, waiting=0))[0] == 2
    assert policy(context(1, replicas=2, waiting=0))[0] == 2


def test_requests_that_wait_where_no_replica_is_ask_for_one() -> None:
    policy = WaitingSecondsPolicy(least=0, most=9)
    assert policy(context(0, replicas=0, waiting=0))[0] == 0
    assert policy(context(1, replicas=0, waiting=0, requests=3))[0] == 1
