"""What is used of the inside of libraries is there, in the shape it is used; a failure names what uses it.

Their versions have upper bounds in pyproject.toml for this: raise one when these tests pass with the new version.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from packaging.requirements import Requirement
from packaging.version import Version
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

import reranker_serve
from tests.checkpoints import save_cross_encoder

ROOT = Path(__file__).parents[1]
PACKAGE = Path(reranker_serve.__file__).parent
INSIDE = r"(uvicorn|transformers|torch\.nn\.attention)\."
BOUNDED = ("uvicorn", "transformers", "torch")

# Below the top of a package: where it is found, what is used, who uses it, and its parameters where they are relied on.
USED = [
    ("uvicorn.config", "STARTUP_FAILURE", "process.py, workers.py", None),
    ("uvicorn.main", "main", "workers.py", None),
    ("uvicorn.supervisors", "ChangeReload", "server.py", ["config", "target", "sockets"]),
    ("uvicorn.supervisors", "Multiprocess", "workers.py", ["config", "sockets"]),
    ("uvicorn.supervisors.multiprocess", "Process", "workers.py", ["config", "sockets"]),
    ("uvicorn.protocols.http.httptools_impl", "HttpToolsProtocol", "connections.py", None),
    ("transformers.masking_utils", "ALL_MASK_ATTENTION_FUNCTIONS", "backends/torch/attention.py", None),
    ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS", "backends/torch/attention.py", None),
    ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS", "backends/torch/rotary.py", None),
    ("transformers.utils", "logging", "backends/torch/weights.py", None),
    (
        "transformers.utils.chat_template_utils",
        "render_jinja_template",
        "families/chat_template.py",
        ["conversations", "chat_template"],
    ),
    (
        "torch.nn.attention.varlen",
        "varlen_attn",
        "backends/torch/attention_varlen.py",
        ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "scale", "window_size"],
    ),
]
# An operator's arguments, by their types: names may change.
OPERATORS = [
    ("mkldnn._reorder_linear_weight", "backends/cpu/linear.py", "Tensor, int?"),
    ("mkldnn._linear_pointwise", "backends/cpu/linear.py", "Tensor, Tensor, Tensor?, str, Scalar?[], str?"),
    ("onednn.qlinear_prepack", "backends/cpu/int8.py", "Tensor, int[]?"),
    (
        "onednn.qlinear_pointwise",
        "backends/cpu/int8.py",
        "Tensor, float, int, Tensor, Tensor, Tensor, Tensor?, float, int, ScalarType?, str, Scalar?[], str",
    ),
    ("quantized.embedding_bag_byte_prepack", "backends/cpu/int8.py", "Tensor"),
]


@pytest.mark.parametrize(("module", "name", "user", "parameters"), USED, ids=lambda value: str(value))
def test_what_is_imported_from_the_inside_is_there(
    module: str, name: str, user: str, parameters: list[str] | None
) -> None:
    found = getattr(importlib.import_module(module), name, None)
    assert found is not None, f"{module} has no {name} any more, which {user} uses"
    if parameters:
        has = inspect.signature(found).parameters
        assert [each for each in parameters if each not in has] == [], f"{user} calls {module}.{name} with these"


def test_whatever_is_imported_from_the_inside_is_listed() -> None:
    listed = {(module, name) for module, name, *_ in USED}
    imported = {
        (node.module, alias.name)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and re.match(r"(uvicorn|transformers|torch\.nn\.attention)\.", node.module or "")
        for alias in node.names
    }
    assert imported == listed


@pytest.mark.parametrize(("operator", "user", "types"), OPERATORS, ids=lambda value: str(value))
def test_the_operators_of_torch_take_what_they_are_given(operator: str, user: str, types: str) -> None:
    space, name = operator.split(".")
    packet = getattr(getattr(torch.ops, space), name, None)
    if packet is None and not torch.backends.mkldnn.is_available():
        pytest.skip("a build of torch without oneDNN, which computes with its ordinary layers")
    assert packet is not None, f"torch.ops has no {operator} any more, which {user} uses"
    arguments = str(packet.default._schema).split("(", 1)[1].split(") ->")[0]
    got = ", ".join(re.sub(r" \w+(=\S+)?$", "", argument) for argument in arguments.split(", "))
    assert got == types, f"{user} calls torch.ops.{operator} with other arguments than it takes"


async def test_a_connection_of_uvicorn_has_what_ours_builds_on() -> None:
    config = uvicorn.Config(lambda scope: None, ws="none")
    config.load()
    connection = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={})
    for name in ("config", "connections", "cycle", "loop", "transport"):
        assert hasattr(connection, name), f"connections.py uses {name}"
    assert isinstance(connection.connections, set)
    overridden = {
        "connection_made": ["transport"],
        "data_received": ["data"],
        "on_headers_complete": [],
        "on_response_complete": [],
        "timeout_keep_alive_handler": [],
        "shutdown": [],
        "connection_lost": ["exc"],
    }
    for name, parameters in overridden.items():
        method: Callable[..., Any] | None = getattr(connection, name, None)
        assert method is not None, f"connections.py overrides {name}, which nobody calls any more"
        assert list(inspect.signature(method).parameters) == parameters, f"connections.py overrides {name}"
    assert "response_complete" in RequestResponseCycle.__init__.__code__.co_names, "connections.py reads it"


def test_a_supervisor_of_uvicorn_has_what_ours_builds_on() -> None:
    from uvicorn.main import main
    from uvicorn.supervisors import ChangeReload, Multiprocess
    from uvicorn.supervisors.multiprocess import Process

    for name in ("init_processes", "keep_subprocess_alive", "run"):
        assert callable(getattr(Multiprocess, name, None)), f"workers.py overrides or calls Multiprocess.{name}"
    for name in ("pid", "exitcode", "start", "join", "pong"):
        assert hasattr(Process, name), f"workers.py uses Process.{name}"
    kept = set(Multiprocess.__init__.__code__.co_names)
    assert {"config", "processes", "processes_num", "should_exit"} <= kept, "workers.py uses these of Multiprocess"
    assert {"process", "parent_conn"} <= set(Process.__init__.__code__.co_names), "workers.py asks these of Process"
    assert "timeout_worker_healthcheck" in Multiprocess.restart_all.__code__.co_names, "workers.py sets it for this"
    assert "should_exit" in ChangeReload.__mro__[1].__init__.__code__.co_names, "server.py hands it to take_interrupts"
    assert {"workers", "reload"} <= {option.name for option in main.params}, "workers.py reads them of the command"


def test_a_model_of_transformers_has_what_packing_needs(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = AutoModelForSequenceClassification.from_pretrained(save_cross_encoder("bert", tmp_path / "bert"))
    assert model._can_set_attn_implementation() is True, "backends/torch/attention.py asks it"
    assert isinstance(model.config._attn_implementation, str), "backends/torch/probe.py goes back to it"
    assert callable(model.set_attn_implementation), "backends/torch/attention.py sets ours with it"
    for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        assert list(inspect.signature(table.register).parameters)[-2:] == ["key", "value"], (
            "backends/torch/attention.py"
        )


@pytest.mark.parametrize("name", BOUNDED)
def test_the_next_version_that_may_break_it_is_not_taken(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {one.name: one for one in map(Requirement, project["dependencies"])}
    pins = re.findall(rf"^{name}(?:\[\w+\])?==(.+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pinned = Version(pins[0])
    following = f"0.{pinned.minor + 1}" if pinned.major == 0 else f"{pinned.major + 1}.0"
    assert pinned in wanted[name].specifier
    assert Version(following) not in wanted[name].specifier
