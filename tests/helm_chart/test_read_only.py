"""The server with the variables of the Helm chart, on a root that cannot be written to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.helm_chart.chart import container, needs_helm, variables
from tests.server.processes import CLI, metric, running

# Without capabilities, in a world of its own where only $1, as /mnt, and $2, as /tmp, can be written to.
_POD = """
mount --make-rprivate /
mount --bind "$1" /mnt
mount --bind "$2" /tmp
mount -o remount,bind,ro /
! touch /written 2>/dev/null
cd /
shift 2
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def _can_mount() -> bool:
    if sys.platform != "linux" or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    return subprocess.run(["unshare", "--mount", "mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


@needs_helm
@pytest.mark.skipif(not _can_mount(), reason="mounting needs root")
@pytest.mark.skipif(sys.prefix.startswith("/tmp/"), reason="the pod's /tmp would hide this environment")
def test_the_server_writes_to_volumes_only(tmp_path: Path) -> None:
    given = variables(container({"settings": {"workers": 2, "cpu_threads": 1}, "drain": {"delaySeconds": 0}}))
    given = {name: value.replace("/models", "/mnt") for name, value in given.items()}
    del given["RERANKER_HOST"], given["RERANKER_PORT"]  # a free one of loopback
    models, tmp = tmp_path / "models", tmp_path / "tmp"
    models.mkdir()
    tmp.mkdir()
    pod = ["unshare", "--mount", "sh", "-ec", _POD, "sh", str(models), str(tmp)]
    variable = [f"{name}={value}" for name, value in given.items()]
    with running(tmp_path, [*pod, "env", *variable, *CLI, "serve", "--demo"]) as server:
        server.wait_ready(120)
        reply = httpx.post(f"{server.url}/rerank", json={"query": "a", "documents": ["a", "b"]}, timeout=30)
        assert reply.status_code == 200, server.output
        assert metric(server.url, "reranker_pairs_total") == 2  # of both workers, from files below /tmp
        assert list(tmp.iterdir()), server.output
        assert server.terminate() == 0, server.output
