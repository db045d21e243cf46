"""What the server costs beside the model, in one run: `python -m benchmarks.server`.

Requests a second without a model (with wrk), time to ready and overhead with the demo model, and
with the base shape the latency of a small request beside a large one, and memory. `--only` and the
other options make it as short as one likes. What could not be measured is named in the result.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contestants.ours import settings_of
from benchmarks.environments import Absent
from benchmarks.machine import cores, facts
from benchmarks.pairs import Request
from benchmarks.peers import revision, tell
from benchmarks.runners import HttpServer
from benchmarks.shapes import SHAPES, Shape, checkpoint
from benchmarks.workloads import WORKLOADS, Texts
from reranker_serve.telemetry.usage import percentile

_SCRIPT = Path(__file__).with_name("ten_documents.lua")
_CONNECTIONS = 8
_WARM_UP = 20
_LARGE_DOCUMENTS = 1000
_SMALL_DOCUMENTS = 10
# Until the large request is on its way through the model.
_HEAD_START_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured: its median, least and most over `values`."""

    what: str
    unit: str
    values: tuple[float, ...]

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"| {self.what} | {median(self.values):.4g} {self.unit} | {low:.4g}-{high:.4g} | {len(self.values)} |"


class Measured(HttpServer):
    """Our server, as a process that a figure is taken of."""

    def __init__(self, name: str, work: Path, arguments: Sequence[str], settings: dict[str, str]) -> None:
        super().__init__(name, SHAPES["demo"], work, work)
        self._arguments, self._settings = list(arguments), settings

    def command(self, port: int) -> tuple[list[str], dict[str, str]]:
        where = {"RERANKER_HOST": "127.0.0.1", "RERANKER_PORT": str(port), "RERANKER_LOG_LEVEL": "WARNING"}
        return [sys.executable, "-m", *self._arguments], where | {"RERANKER_CACHE_ENTRIES": "0"} | self._settings

    @property
    def url(self) -> str:
        return str(self._client.base_url)

    def ask(self, request: Request) -> tuple[float, dict[str, float]]:
        """Milliseconds until the reply, and the `timings` in it."""
        body = {"query": request.query, "documents": request.documents, "return_documents": False}
        start = time.perf_counter()
        reply = self._client.post("/rerank", json=body)
        elapsed = 1000 * (time.perf_counter() - start)
        if reply.status_code != 200:
            raise Absent(f"the server answered {reply.status_code}: {reply.text[:200]}")
        return elapsed, reply.json()["timings"]

    def memory(self, field: str) -> float:
        """`VmRSS` (now) or `VmHWM` (at most until now), in MB. Linux only."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            raise Absent("this system does not tell a process's memory")
        found = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
        assert found
        return int(found[1]) / 1000


def main() -> None:
    arguments = _parser().parse_args()
    figures: list[Figure] = []
    absent: dict[str, str] = {}
    for name in arguments.only:
        tell(name)
        try:
            figures += PARTS[name](arguments)
        except Absent as reason:
            absent[name] = str(reason)
            tell(f"{name} is absent: {reason}")
    page = _write(figures, absent, arguments)
    print(page.read_text())
    print(f"written to {page} and {page.with_suffix('.json')}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description="Measure what the server costs.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="of wrk and of starts")
    parser.add_argument("--seconds", type=float, default=6, help="of each round of wrk")
    parser.add_argument("--requests", type=int, default=200, help="that the overhead is taken of")
    parser.add_argument("--shape", choices=SHAPES, default="xlm-r-base", help="for fairness and memory")
    parser.add_argument("--work", type=Path, default=Path(".benchmarks"), help="checkpoints and logs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default="server", help="of the result's two files (default server)")
    return parser


def without_model(arguments: argparse.Namespace) -> list[Figure]:
    """Requests a second of one process that has no model to wait for; both tokenizers in turn."""
    if shutil.which("wrk") is None:
        raise Absent("wrk is not installed")
    found: dict[str, list[float]] = {"trivial": [], "demo": []}
    with _started(_modelless("trivial", arguments)) as trivial, _started(_modelless("demo", arguments)) as demo:
        for number in range(arguments.rounds + 1):
            for name, server in (("trivial", trivial), ("demo", demo)):
                rate = _wrk(server.url, arguments.seconds)
                if number > 0:
                    found[name].append(rate)
    return [
        Figure(f"10 documents of 100 words, {name} tokenizer, no model", "requests/s", tuple(rates))
        for name, rates in found.items()
    ]


def start(arguments: argparse.Namespace) -> list[Figure]:
    """Of the demo model, from the process's start to ready."""
    seconds = []
    for number in range(arguments.rounds + 1):
        server = _demo(arguments)
        try:
            took = server.start()
        finally:
            server.close()
        if number > 0:
            seconds.append(took)
    return [Figure("demo model, from process start to ready", "s", tuple(seconds))]


def overhead(arguments: argparse.Namespace) -> list[Figure]:
    """What a request to an idle server takes beside the forward pass, seen by the client and by the server."""
    words = " ".join(f"word{i}" for i in range(1, 100))
    outside, inside = [], []
    with _started(_demo(arguments)) as server:
        for number in range(-_WARM_UP, arguments.requests):
            request = Request("what is word1", tuple(f"{number}-{i} {words}" for i in range(10)))
            took, timings = server.ask(request)
            if number >= 0:
                outside.append(took - timings["inference_ms"])
                inside.append(timings["total_ms"] - timings["inference_ms"])
    return [
        Figure("overhead of 10 documents of 100 words, demo model: reply minus forward pass", "ms", tuple(outside)),
        Figure("the same by the server's own clock", "ms", tuple(inside)),
    ]


def fairness_and_memory(arguments: argparse.Namespace) -> list[Figure]:
    """A small request alone and while 1,000 documents are being scored; memory before, during and after."""
    data = os.environ.get("RR_TEST_DATA")
    if not data:
        raise Absent("RR_TEST_DATA does not name the folder with tokenizers/, pairs/ and collections/")
    shape = SHAPES[arguments.shape]
    folder = checkpoint(shape, arguments.work.resolve(), Path(data))
    settings = settings_of(folder, cores(), shape.max_length, None)
    texts = Texts(folder, Path(data))
    with _started(Measured(shape.name, arguments.work.resolve(), ["reranker_serve", "serve"], settings)) as server:
        loaded, loading = server.memory("VmRSS"), server.memory("VmHWM")
        small = _small_requests(texts)
        for _ in range(4):
            server.ask(next(small))
        alone = [server.ask(next(small))[0] / 1000 for _ in range(20)]
        beside = _beside(server, texts.round(WORKLOADS["E"], 0)[0], small)
        serving = server.memory("VmRSS")
    return [
        Figure(f"{shape.name}: 10 documents alone", "s", tuple(alone)),
        Figure(f"{shape.name}: 10 documents beside 1,000", "s", tuple(beside)),
        Figure(
            f"{shape.name}: 95th percentile beside 1,000 over median alone",
            "times",
            (percentile(sorted(beside), 95) / median(alone),),
        ),
        *_memory(shape, {"after loading": loaded, "at most while loading": loading, "after these requests": serving}),
    ]


def _small_requests(texts: Texts) -> Iterator[Request]:
    number = 0
    while True:
        for request in texts.round(WORKLOADS["B"], number):
            yield Request(request.query, request.documents[:_SMALL_DOCUMENTS])
        number += 1


def _beside(server: Measured, large: Request, small: Iterator[Request]) -> list[float]:
    thread = threading.Thread(target=server.ask, args=(large,))
    thread.start()
    time.sleep(_HEAD_START_SECONDS)
    found = []
    while True:
        took = server.ask(next(small))[0] / 1000
        if not thread.is_alive():  # the last one may have been alone
            return found or [took]
        found.append(took)


def _memory(shape: Shape, resident: dict[str, float]) -> list[Figure]:
    weights = shape.layer_parameters * 2 / 1e6
    embeddings = shape.vocabulary * shape.hidden * 2 / 1e6
    found = [Figure(f"{shape.name}: resident {when}", "MB", (value,)) for when, value in resident.items()]
    return [Figure(f"{shape.name}: weights in bfloat16", "MB", (weights + embeddings,)), *found]


def _modelless(tokenizer: str, arguments: argparse.Namespace) -> Measured:
    return Measured(f"modelless-{tokenizer}", arguments.work.resolve(), ["benchmarks.modelless", tokenizer], {})


def _demo(arguments: argparse.Namespace) -> Measured:
    settings = {"RERANKER_CPU_THREADS": str(cores())}
    return Measured("demo", arguments.work.resolve(), ["reranker_serve", "serve", "--demo"], settings)


@contextmanager
def _started(server: Measured) -> Iterator[Measured]:
    try:
        server.start()
        yield server
    finally:
        server.close()


def _wrk(url: str, seconds: float) -> float:
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds:g}s", "-s", str(_SCRIPT), url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise Absent(f"wrk saw errors: {printed.strip()}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert rate, printed
    return float(rate[1])


PARTS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "without-model": without_model,
    "start": start,
    "overhead": overhead,
    "fairness-and-memory": fairness_and_memory,
}


def _write(figures: Sequence[Figure], absent: dict[str, str], arguments: argparse.Namespace) -> Path:
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks.server", *sys.argv[1:]]),
        "revision": revision(),
        "machine": facts(),
        "absent": absent,
        "figures": [asdict(figure) for figure in figures],
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    page: Path = arguments.output / f"{arguments.name}.md"
    page.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [f"# The server, {result['date']}", "", f"`{result['command']}` at revision {result['revision']}", ""]
    lines += [f"- {name}: {value}" for name, value in facts().items()]
    lines += [f"- absent: {part}: {reason}" for part, reason in absent.items()]
    lines += ["", "| what | median | least-most | times measured |", "|---|---|---|---|", *map(str, figures)]
    page.write_text("\n".join(lines) + "\n")
    return page


if __name__ == "__main__":
    main()
