"""The real application with a real model, as it is deployed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from reranker_serve.app import create_app
from reranker_serve.demo import MODEL_NAME, demo_folder
from reranker_serve.environment import environment_name
from reranker_serve.errors import SettingsError, StartupError
from reranker_serve.loader import load
from reranker_serve.scale.ray import Arguments, app, application
from reranker_serve.settings import Settings
from tests.conftest import fake_settings
from tests.ray.conftest import HAPROXY, NAME, PATIENCE_S, ROOT, Cluster, full, until
from tests.ray.fake import load_unservable

DEPLOY = ROOT / "deploy" / "ray"
CONFIGURATION = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
SERVICE = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())
CONFIGURATIONS = {"serve.yaml": CONFIGURATION, "rayservice.yaml": yaml.safe_load(SERVICE["spec"]["serveConfigV2"])}
REQUEST = {"query": "how do plants make food", "documents": ["The stock market fell.", "Photosynthesis makes sugar."]}


@pytest.fixture
def demo(tmp_path: Path) -> dict[str, str]:
    return {"model_path": str(demo_folder()), "model_name": MODEL_NAME, "model_cache_dir": str(tmp_path)}


@pytest.fixture
def deleted(ray_cluster: Cluster) -> Iterator[None]:
    yield
    serve.delete(NAME)


async def results_without_ray(settings: Settings) -> Any:
    served = create_app(settings, load(settings))
    transport = httpx.ASGITransport(served)
    async with served.router.lifespan_context(served), httpx.AsyncClient(transport=transport, base_url="http://a") as c:
        return (await c.post("/rerank", json=REQUEST)).json()["results"]


@full
@pytest.mark.usefixtures("deleted")
def test_the_configuration_deploys_the_model_with_the_scores_it_has_without_ray(
    ray_cluster: Cluster, demo: dict[str, str], tmp_path: Path
) -> None:
    """`serve run`, with the arguments and settings of a machine without a GPU."""
    file = tmp_path / "serve.yaml"
    variables = {environment_name(name): value for name, value in demo.items()}
    changed = {"args": {"replicas": 2}, "runtime_env": {"env_vars": variables}}
    file.write_text(yaml.safe_dump(CONFIGURATION | {"applications": [CONFIGURATION["applications"][0] | changed]}))
    command = [
        str(Path(sys.executable).parent / "serve"),
        "run",
        "--non-blocking",
        "-a",
        ray_cluster.address,
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    until(lambda: httpx.get(f"{ray_cluster.url}/ready", timeout=PATIENCE_S).status_code == 200)
    wanted = asyncio.run(results_without_ray(fake_settings(**demo, device="cpu")))
    for _ in range(4):
        reply = httpx.post(f"{ray_cluster.url}/rerank", json=REQUEST, timeout=PATIENCE_S)
        assert reply.json()["model"] == MODEL_NAME
        assert [each["index"] for each in reply.json()["results"]] == [1, 0]
        scores = [each["relevance_score"] for each in reply.json()["results"]]
        assert scores == pytest.approx([each["relevance_score"] for each in wanted], abs=1e-5)


@full
@pytest.mark.usefixtures("deleted")
def test_why_a_model_cannot_be_served_is_told_by_the_deployment(ray_cluster: Cluster, tmp_path: Path) -> None:
    missing = fake_settings(model_path=str(tmp_path / "nowhere"))
    with pytest.raises(StartupError) as told:
        load(missing)
    assert str(told.value) in told_by_ray(application(Arguments(), missing))


@full
@pytest.mark.usefixtures("deleted")
def test_a_model_that_is_loaded_and_cannot_be_served_does_not_count_as_up(ray_cluster: Cluster) -> None:
    assert "no such thing as a cap" in told_by_ray(application(Arguments(), fake_settings(), load_unservable))


def told_by_ray(failing: serve.Application) -> str:
    with pytest.raises(RuntimeError):
        serve.run(failing, name=NAME)
    (deployment,) = serve.status().applications[NAME].deployments.values()
    return str(deployment.message)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_checked_in_configurations_are_ones_of_ray_and_of_this_application(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (given,) = ServeDeploySchema.model_validate(CONFIGURATIONS[name]).applications
    module, _, attribute = given.import_path.partition(":")
    assert (module, attribute) == (app.__module__, app.__name__)
    variables = given.runtime_env["env_vars"]
    known = {environment_name(field) for field in Settings.model_fields}
    assert variables.keys() <= known
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    built = app(given.args)
    assert built._bound_deployment.ray_actor_options == {"num_cpus": 4.0, "num_gpus": 1.0}


def test_the_pods_of_the_service_have_what_a_replica_asks_for() -> None:
    (arguments,) = (each["args"] for each in CONFIGURATIONS["rayservice.yaml"]["applications"])
    cluster = SERVICE["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= arguments["num_gpus"]
    assert int(limits["cpu"]) > arguments["num_cpus"], "the proxy of the node needs some"
    assert group["maxReplicas"] >= arguments["max_replicas"]
    for pod in (group["template"]["spec"], cluster["headGroupSpec"]["template"]["spec"]):
        assert pod["terminationGracePeriodSeconds"] > Settings.model_fields["drain_timeout"].default
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_version_of_ray_is_one() -> None:
    pinned = (Path(__file__).parent / "requirements.txt").read_text().split("ray[data,serve]==")[1].split()[0]
    assert SERVICE["spec"]["rayClusterConfig"]["rayVersion"] == pinned
    assert f"rayproject/ray:{pinned}-" in (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"replica": "1"}, "^replica: there is no such argument; there are replicas, max_replicas, "),
        ({"replicas": "0"}, "^replicas=0 needs max_replicas, "),
        ({"replicas": "3", "max_replicas": "2"}, "^max_replicas=2 is below replicas=3$"),
        ({"num_gpus": "-1"}, "^num_gpus: Input should be greater than or equal to 0$"),
        ({"num_gpus": "1.5"}, "^num_gpus=1.5 should be whole above 1$"),
        ({"num_cpus": "inf"}, "^num_cpus: Input should be a finite number$"),
        ({"replicas": "many"}, "^replicas: Input should be a valid integer"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: dict[str, str], wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong):
        app(arguments)


def test_a_gpu_that_no_replica_has_is_refused() -> None:
    with pytest.raises(SettingsError, match="num_gpus=1"):
        application(Arguments(), fake_settings(device="cuda"))


def test_a_replica_is_one_process_that_computes_on_what_ray_gives_it() -> None:
    def placed(arguments: Arguments, **settings: str) -> Settings:
        return application(arguments, fake_settings(**settings))._bound_deployment.init_args[0]

    on_cpu = placed(Arguments(num_cpus=3), workers="4")
    assert (on_cpu.device, on_cpu.cpu_threads, on_cpu.workers) == ("cpu", 3, 1)
    assert placed(Arguments(num_cpus=3), cpu_threads="2").cpu_threads == 2
    assert placed(Arguments(num_gpus=2)).device is None


def test_ray_waits_until_all_is_answered_and_never_refuses_by_itself() -> None:
    settings = fake_settings(drain_delay="3", drain_timeout="50")
    deployment = application(Arguments(replicas=2), settings)._bound_deployment
    assert deployment._deployment_config.graceful_shutdown_wait_loop_s == 3
    assert deployment._deployment_config.graceful_shutdown_timeout_s > 53
    at_once = application(Arguments(), fake_settings(drain_delay="0"))._bound_deployment
    assert at_once._deployment_config.graceful_shutdown_wait_loop_s > 0, "Ray logs each time it looks"
    assert deployment.max_queued_requests == -1
    router = deployment._deployment_config.request_router_config
    assert router.is_default_request_router() == HAPROXY
    assert router.request_router_kwargs == ({} if HAPROXY else {"max_body_bytes": settings.max_body_bytes})


def test_a_fleet_that_scales_has_its_delays_in_the_policy() -> None:
    deployment = application(Arguments(replicas=1, max_replicas=5, up_delay=7), fake_settings())._bound_deployment
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 5)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (0, 0)
    assert scaling.policy.policy_kwargs["up_delay"] == 7


def test_every_argument_is_documented() -> None:
    page = (ROOT / "docs" / "ray.md").read_text()
    for name, field in Arguments.model_fields.items():
        default = "none" if field.default is None else f"`{field.default:g}`"
        assert f"| `{name}` | {default} | {field.description} |" in page
