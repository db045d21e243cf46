"""The `bench` command: its arguments, its runs, and what it prints."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reranker_serve.errors import StartupError
from reranker_serve.tools.bench.load import Bounds, ClosedLoop, OpenLoop, Sample, Target, run_load
from reranker_serve.tools.bench.report import Summary, draw_curve, highest_rate_within, summarize, table
from reranker_serve.tools.bench.texts import Question, from_file, made_up, parse_sizes
from reranker_serve.tools.dialects import DIALECTS

_NEEDED = ("aiohttp", "matplotlib", "tqdm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="the server, such as http://127.0.0.1:8000")
    load = parser.add_argument_group("load").add_mutually_exclusive_group()
    load.add_argument("--callers", type=_count, help="closed loop: callers that wait for replies (default 1)")
    load.add_argument("--rate", type=_positive, help="open loop: requests a second, Poisson arrivals")
    load.add_argument("--rates", type=_rates, help="open loop at several rates, such as 1,2,4,8; draws the curve")
    bounds = parser.add_argument_group("bounds, for each rate")
    bounds.add_argument("--requests", type=_count, default=200, help="send at most this many (default 200)")
    bounds.add_argument("--seconds", type=_positive, default=30.0, help="send for at most this long (default 30)")
    bounds.add_argument("--timeout", type=_positive, default=60.0, help="wait this long for a reply (default 60)")
    bounds.add_argument("--warmup", type=int, default=3, help="requests before measuring (default 3)")
    texts = parser.add_argument_group("texts")
    texts.add_argument("--documents", type=_sizes, default="10", metavar="SIZES", help="a request (default 10)")
    texts.add_argument("--words", type=_sizes, default="100", metavar="SIZES", help="a document (default 100)")
    texts.add_argument("--file", type=Path, help="JSONL of query and documents instead, over and over")
    texts.add_argument("--seed", type=int, default=0, help="the same seed asks the same (default 0)")
    parser.epilog = "SIZES: 10, 5-50 (uniform), lognormal:90 or lognormal:90:0.7 (median, sigma)"
    target = parser.add_argument_group("server")
    target.add_argument("--dialect", choices=DIALECTS, default="native", help="which API (default native)")
    target.add_argument("--path", help="instead of the dialect's usual path")
    target.add_argument("--model", default="default", help="the model's name, where the API has one")
    target.add_argument("--key", help="the server's API key")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, help="write the results to this file as well")
    output.add_argument("--png", type=Path, default=Path("bench.png"), help="of --rates (default bench.png)")
    output.add_argument("--bound", type=_positive, help="milliseconds: tell the highest rate with p99 within it")


def run(arguments: argparse.Namespace) -> int:
    """Measure and report; 1 if no request was answered well. Raises `StartupError` with one line."""
    for name in _NEEDED:
        _import(name)
    dialect = DIALECTS[arguments.dialect]
    url = arguments.url.rstrip("/") + (arguments.path or dialect.path)
    target = Target(url, dialect, arguments.model, arguments.key, arguments.timeout)
    questions = from_file(arguments.file) if arguments.file else _made_up(arguments)
    _warm_up(target, questions, arguments.warmup)
    rates = arguments.rates or ([arguments.rate] if arguments.rate else [])
    summaries = [_measure(f"{rate:g} req/s", OpenLoop(rate), target, questions, arguments) for rate in rates]
    if not rates:
        callers = arguments.callers or 1
        summaries = [_measure(f"{callers} callers", ClosedLoop(callers), target, questions, arguments)]
    print(table(summaries))
    curve = list(zip(rates, summaries, strict=True)) if arguments.rates else []
    for line in _remarks(summaries, curve, arguments):
        print(line)
    if curve:
        draw_curve(curve, url, arguments.png)
        print(f"the curve is in {arguments.png}")
    if arguments.json:
        arguments.json.write_text(json.dumps(_document(url, summaries, arguments), indent=2) + "\n")
    return 0 if any(summary.good for summary in summaries) else 1


def _made_up(arguments: argparse.Namespace) -> Iterator[Question]:
    return made_up(arguments.documents, arguments.words, arguments.seed)


def _warm_up(target: Target, questions: Iterator[Question], requests: int) -> None:
    """Also finds out whether there is a server at all. Raises `StartupError`."""
    if requests < 1:
        return
    samples = _run(target, ClosedLoop(1), Bounds(requests, math.inf), questions, 0, lambda _: None)
    outcomes = {sample.outcome for sample in samples}
    if not any(sample.good for sample in samples):
        raise StartupError(
            f"{target.url} gives no good reply ({', '.join(sorted(outcomes))}): see --dialect and --path"
        )


def _measure(
    name: str,
    load: OpenLoop | ClosedLoop,
    target: Target,
    questions: Iterator[Question],
    arguments: argparse.Namespace,
) -> Summary:
    bounds = Bounds(arguments.requests, arguments.seconds)
    with _import("tqdm").tqdm(total=arguments.requests, desc=name, unit="request", leave=False) as progress:
        samples = _run(target, load, bounds, questions, arguments.seed, lambda _: progress.update())
    if not samples:
        raise StartupError(f"nothing was sent at {name} within {arguments.seconds:g} s: give it more --seconds")
    return summarize(name, samples)


def _run(
    target: Target,
    load: OpenLoop | ClosedLoop,
    bounds: Bounds,
    questions: Iterator[Question],
    seed: int,
    on_sample: Callable[[Sample], None],
) -> list[Sample]:
    return asyncio.run(run_load(target, load, bounds, questions, seed, on_sample))


def _remarks(
    summaries: list[Summary], curve: list[tuple[float, Summary]], arguments: argparse.Namespace
) -> Iterator[str]:
    late = max(summary.late_ms for summary in summaries)
    if late > 5:
        yield f"the load generator itself was up to {late:.0f} ms late (p99): this machine is too busy to measure"
    if arguments.bound and curve:
        best = highest_rate_within(curve, arguments.bound)
        found = "at none of these rates" if best is None else f"up to {best:g} requests/s"
        yield f"p99 stays within {arguments.bound:g} ms {found}"


def _document(url: str, summaries: list[Summary], arguments: argparse.Namespace) -> dict[str, Any]:
    asked = ("dialect", "requests", "seconds", "timeout", "warmup", "seed")
    return {
        "url": url,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("reranker-serve"),
        "options": {name: getattr(arguments, name) for name in asked}
        | {"documents": str(arguments.documents), "words": str(arguments.words), "file": str(arguments.file or "")},
        # JSON has no NaN: a percentile of nothing is null.
        "runs": [
            {name: None if value != value else value for name, value in asdict(summary).items()}
            for summary in summaries
        ],
    }


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _rates(text: str) -> list[float]:
    return [_positive(rate) for rate in text.split(",")]


def _sizes(text: str) -> object:
    try:
        return parse_sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise StartupError(f"bench needs {name}: pip install 'reranker-serve[bench]'") from None
