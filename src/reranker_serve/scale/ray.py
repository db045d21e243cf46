"""The application on a Ray cluster: `serve run reranker_serve.scale.ray:app replicas=2 num_gpus=1`.

Settings are those of the environment, as everywhere; the arguments say how many replicas there are, and what each has.
"""

from __future__ import annotations

import logging
import os
from inspect import signature
from typing import Any, Self

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from reranker_serve.environment import load_settings
from reranker_serve.errors import SettingsError
from reranker_serve.loader import load as load_model
from reranker_serve.process import LAST_REPLIES_S
from reranker_serve.scale.autoscaler import WaitingSecondsPolicy
from reranker_serve.scale.policy import Scaling
from reranker_serve.scale.ray_metrics import RayMetrics
from reranker_serve.scale.replica import Load, Replica
from reranker_serve.scale.router import WaitingSecondsRouter
from reranker_serve.settings import Settings

logger = logging.getLogger(__name__)

NAME = "Reranker"
# Requests that Ray lets into one replica at once. What is too much is for the replica to say, which knows what each
# costs, and when to come again: beyond this Ray would let them wait unseen, and with its `max_queued_requests` answer
# 503. No more than threads and memory of a process can bear, whatever comes.
MAX_ONGOING = 10_000
# The arguments of the policy as they were simulated.
_SIMULATED = {name: parameter.default for name, parameter in signature(Scaling).parameters.items()}
# Ray asks a replica how it is; a process that ended is seen then.
_HEALTH_CHECK_S = 2.0
# Between two looks whether all is answered; Ray logs each.
_LEAST_WAIT_S = 0.1


class RayReplica(Replica):
    """Its metrics are among Ray's as well."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = super().__serve_build_asgi_app__()
        self._ray_metrics = RayMetrics(app.state.metrics) if self._settings.enable_metrics else None
        return app

    async def record_routing_stats(self) -> dict[str, float]:
        if self._ray_metrics:
            self._ray_metrics.copy()
        return await super().record_routing_stats()


class Arguments(BaseModel):
    """What the application takes on the command line, and as `args` of a Serve configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    replicas: int = Field(1, ge=0, description="replicas; the least there are, with `max_replicas`; 0: none when idle")
    max_replicas: int | None = Field(None, ge=1, description="most replicas; with it their number follows the load")
    num_cpus: float = Field(1.0, ge=0, description="cores of a replica, and its threads on a CPU")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of a replica, all used by it; below 1: a share of one")
    target_seconds: float = Field(
        _SIMULATED["target_seconds"], gt=0, description="seconds of computing that may wait in each replica"
    )
    up_delay: float = Field(
        _SIMULATED["up_delay"], ge=0, description="seconds for which more must be wanted before there are more"
    )
    down_delay: float = Field(
        _SIMULATED["down_delay"], ge=0, description="seconds for which fewer must be wanted before there are fewer"
    )
    to_zero_delay: float = Field(
        _SIMULATED["to_zero_delay"], ge=0, description="seconds in which nothing was computed before the last one goes"
    )
    report_seconds: float = Field(2.0, gt=0, description="seconds between two reports of a replica")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.max_replicas is None and self.replicas == 0:
            raise ValueError("replicas=0 needs max_replicas, the most there may be when requests come")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is below replicas={self.replicas}")
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise ValueError(f"num_gpus={self.num_gpus:g} should be whole above 1")
        return self

    @property
    def autoscaling(self) -> AutoscalingConfig | None:
        """None: there are always as many replicas."""
        if self.max_replicas is None:
            return None
        delays = self.model_dump(include=set(_SIMULATED))
        scaling = {"least": self.replicas, "most": self.max_replicas, **delays}
        return AutoscalingConfig(
            min_replicas=self.replicas,
            max_replicas=self.max_replicas,
            # Deprecated in favour of variables that nothing reads (2.60); else a report is up to ten seconds old.
            metrics_interval_s=self.report_seconds,
            look_back_period_s=5 * self.report_seconds,
            upscale_delay_s=0,
            downscale_delay_s=0,
            policy=AutoscalingPolicy(policy_function=WaitingSecondsPolicy, policy_kwargs=scaling),
        )


def app(arguments: dict[str, Any]) -> Application:
    """What `serve run` and a configuration build, with `Arguments` by name. Raises `SettingsError` with one line."""
    try:
        given = Arguments.model_validate(arguments)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    settings, warnings = load_settings()
    for warning in warnings:
        logger.warning("%s", warning)
    return application(given, settings)


def application(arguments: Arguments, settings: Settings, load: Load = load_model) -> Application:
    """Replicas that serve what `load` makes of the settings. Raises `SettingsError`."""
    autoscaling = arguments.autoscaling
    count = {"num_replicas": arguments.replicas} if autoscaling is None else {"autoscaling_config": autoscaling}
    deployment = serve.deployment(
        serve.ingress()(RayReplica),
        name=NAME,
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=-1,
        logging_config=LoggingConfig(enable_access_log=False),  # the application has its own
        health_check_period_s=_HEALTH_CHECK_S,
        # A replica that is to go gets nothing new; Ray looks after each of these whether all is answered.
        graceful_shutdown_wait_loop_s=max(settings.drain_delay, _LEAST_WAIT_S),
        graceful_shutdown_timeout_s=_drain_seconds(settings),
        request_router_config=_routing(arguments.report_seconds, settings),
        **count,
    )
    return deployment.bind(_placed(settings, arguments), load)


def _drain_seconds(settings: Settings) -> float:
    """Until a replica that is to go is ended, whatever it does."""
    # HAProxy may send for so long to who is to go.
    late = float(os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "30")) if _behind_haproxy() else 0.0
    return late + settings.drain_delay + settings.drain_timeout + LAST_REPLIES_S


def _routing(report_seconds: float, settings: Settings) -> RequestRouterConfig:
    """HAProxy chooses by itself, and Ray refuses another router beside it."""
    router: dict[str, Any] = {
        "request_router_class": WaitingSecondsRouter,
        "request_router_kwargs": {"max_body_bytes": settings.max_body_bytes},
    }
    return RequestRouterConfig(request_routing_stats_period_s=report_seconds, **({} if _behind_haproxy() else router))


def _behind_haproxy() -> bool:
    return os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"


def _placed(settings: Settings, arguments: Arguments) -> Settings:
    """The settings of one replica: one process, on what Ray gives it."""
    found: dict[str, Any] = {"workers": 1}
    if not arguments.num_gpus:
        if settings.device and settings.device.startswith("cuda"):
            raise SettingsError(f"RERANKER_DEVICE={settings.device} needs replicas with GPUs: give num_gpus=1 or more")
        found["device"] = settings.device or "cpu"
        found["cpu_threads"] = settings.cpu_threads or max(1, int(arguments.num_cpus))
        found["cpu_lanes"] = settings.cpu_lanes or 1  # Ray tells how many cores are a replica's, and not which
    return settings.model_copy(update=found)


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = f"there is no such argument; there are {', '.join(Arguments.model_fields)}"
    return f"{'.'.join(map(str, first['loc']))}: {reason}" if first["loc"] else reason
