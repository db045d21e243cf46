from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice, pairwise
from pathlib import Path

import pytest

from reranker_serve.cli import main
from reranker_serve.errors import StartupError
from reranker_serve.telemetry.usage import percentile
from reranker_serve.tools.bench.load import Bounds, ClosedLoop, OpenLoop, Sample, Target, run_load
from reranker_serve.tools.bench.report import Summary, highest_rate_within, summarize, table
from reranker_serve.tools.bench.texts import LogNormal, Uniform, from_file, made_up, parse_sizes
from reranker_serve.tools.dialects import DIALECTS
from tests.server.processes import FAKE_SERVER, Server, running

REPLY = {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 7}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path, FAKE_SERVER, model_name="fake") as server:
        server.wait_ready()
        yield server


# --- texts ---


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("10", Uniform(10, 10)),
        ("5-50", Uniform(5, 50)),
        ("lognormal:90", LogNormal(90)),
        ("lognormal:90:1.5", LogNormal(90, 1.5)),
    ],
)
def test_sizes_are_read(text: str, sizes: object) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "-5", "5-", "50-5", "1.5", "lognormal", "lognormal:9:0", "normal:9", "9:1"])
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_sizes(text)


def test_sizes_are_drawn_as_they_say() -> None:
    source = random.Random(0)
    uniform = [Uniform(3, 5).draw(source) for _ in range(300)]
    assert set(uniform) == {3, 4, 5}
    drawn = sorted(LogNormal(90).draw(source) for _ in range(2001))
    assert 80 <= drawn[1000] <= 100
    assert 1 <= drawn[0] < 30
    assert 300 < drawn[-1] <= 900


def test_made_up_texts_have_their_sizes_are_never_the_same_and_repeat_with_the_seed() -> None:
    def first(seed: int) -> list[tuple[str, ...]]:
        return [question.documents for question in islice(made_up(Uniform(2, 4), Uniform(5, 9), seed), 50)]

    documents = [document for texts in first(1) for document in texts]
    assert {len(texts) for texts in first(1)} == {2, 3, 4}
    assert {len(document.split()) for document in documents} == {5, 6, 7, 8, 9}
    assert len(set(documents)) == len(documents)
    assert first(1) == first(1) != first(2)


def test_a_file_is_asked_over_and_over(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text('{"query": "q", "documents": ["a"]}\n\n{"query": "r", "documents": ["b", "c"]}\n')
    assert [question.query for question in islice(from_file(path), 5)] == ["q", "r", "q", "r", "q"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("", "holds no requests"),
        ("{", "line 1 is not an object"),
        ('{"query": "q"}', "line 1 is not an object"),
        ('{"query": "q", "documents": []}', "line 1: query must be a string"),
        ('{"query": "q", "documents": [1]}', "line 1: documents must be strings"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "asked.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartupError, match=said) as caught:
        from_file(path)
    assert "\n" not in str(caught.value)


# --- load ---


@asynccontextmanager
async def one_at_a_time(seconds: float) -> AsyncIterator[str]:
    """A server that takes `seconds` a request, and works on one only."""
    working = asyncio.Lock()
    body = json.dumps(REPLY).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            (length,) = (line.split(b":")[1] for line in head.splitlines() if line.lower().startswith(b"content-len"))
            await reader.readexactly(int(length))
            async with working:
                await asyncio.sleep(seconds)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def load(url: str, loop: OpenLoop | ClosedLoop, bounds: Bounds, patience: float = 10) -> list[Sample]:
    target = Target(f"{url}/rerank", DIALECTS["native"], "m", None, patience)
    return await run_load(target, loop, bounds, made_up(Uniform(1, 1), Uniform(3, 3), 0), 0, lambda _: None)


async def test_in_an_open_loop_everyone_who_waits_is_counted() -> None:
    """30 requests in about 0.3 s at 0.05 s each: the last waits for more than a second."""
    async with one_at_a_time(0.05) as url:
        samples = await load(url, OpenLoop(100), Bounds(30, 60))
        waiting = await load(url, ClosedLoop(1), Bounds(5, 60))
    assert len(samples) == 30
    assert all(sample.good and sample.tokens == 7 for sample in samples)
    assert max(sample.latency for sample in samples) > 0.7
    assert max(sample.latency for sample in waiting) < 0.5
    assert all(sample.intended <= sample.sent <= sample.done for sample in samples)


async def test_arrivals_come_at_the_rate_and_not_at_even_distances() -> None:
    async with one_at_a_time(0) as url:
        samples = await load(url, OpenLoop(400), Bounds(200, 60))
    at = sorted(sample.intended for sample in samples)
    gaps = [later - earlier for earlier, later in pairwise(at)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 400, rel=0.3)
    # An exponential distribution's standard deviation is its mean.
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(mean, rel=0.4)


@pytest.mark.parametrize("loop", [OpenLoop(100), ClosedLoop(3)])
async def test_time_bounds_a_run_and_what_was_sent_is_waited_for(loop: OpenLoop | ClosedLoop) -> None:
    async with one_at_a_time(0.02) as url:
        samples = await load(url, loop, Bounds(10_000, 0.3))
    assert 5 <= len(samples) <= 60
    assert all(sample.good for sample in samples)
    assert max(sample.intended for sample in samples) < 0.3


async def test_a_reply_that_does_not_come_is_a_timeout() -> None:
    async with one_at_a_time(0.4) as url:
        samples = await load(url, ClosedLoop(2), Bounds(2, 60), patience=0.1)
    assert [sample.outcome for sample in samples] == ["timeout"] * 2


async def test_a_reply_of_another_count_is_wrong() -> None:
    async with one_at_a_time(0) as url:
        target = Target(f"{url}/rerank", DIALECTS["native"], "m", None, 10)
        questions = made_up(Uniform(2, 2), Uniform(3, 3), 0)
        samples = await run_load(target, ClosedLoop(1), Bounds(1, 60), questions, 0, lambda _: None)
    assert samples[0].outcome == "wrong reply"


# --- report ---


def sample(latency: float, outcome: str = "200", tokens: int | None = 100, at: float = 0.0) -> Sample:
    return Sample(at, at, at + latency, outcome, 10, tokens)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([3.0], 50) == 3.0
    assert math.isnan(percentile([], 99))


def test_a_summary_is_that_computed_by_hand() -> None:
    samples = [sample(0.1), sample(0.3, at=1.7), sample(0.01, "429"), sample(1.0, "timeout")]
    summary = summarize("x", samples)
    assert (summary.requests, summary.good, summary.seconds) == (4, 2, 2.0)
    assert (summary.requests_per_second, summary.pairs_per_second, summary.tokens_per_second) == (1, 10, 100)
    # A refusal took no time, a timeout took its time.
    assert (summary.p50_ms, summary.max_ms) == pytest.approx((300, 1000))
    assert summary.errors == {"429": 1, "timeout": 1}
    assert "1 x 429, 1 x timeout" in table([summary])


def test_tokens_are_not_guessed_where_the_server_does_not_tell() -> None:
    assert summarize("x", [sample(0.1), sample(0.1, tokens=None)]).tokens_per_second is None


def test_the_highest_rate_within_a_bound_has_all_lower_ones_within_it() -> None:
    def at(milliseconds: float, outcome: str = "200") -> Summary:
        return summarize("x", [sample(milliseconds / 1e3, outcome)])

    curve = [(4.0, at(10)), (1.0, at(10)), (2.0, at(20)), (8.0, at(90)), (16.0, at(5))]
    assert highest_rate_within(curve, 50) == 4.0
    assert highest_rate_within(curve, 5) is None
    assert highest_rate_within([(1.0, at(10)), (2.0, at(1, "503"))], 50) == 1.0


# --- the command ---


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_asked_and_read_rightly(server: Server, tmp_path: Path, name: str) -> None:
    result = tmp_path / "result.json"
    command = ["bench", server.url, "--dialect", name, "--callers", "2", "--requests", "6", "--json", str(result)]
    assert main([*command, "--documents", "2-4", "--words", "5-20"]) == 0
    (measured,) = json.loads(result.read_text())["runs"]
    assert (measured["good"], measured["errors"]) == (6, {})
    assert (measured["tokens_per_second"] is None) == (name in ("tei", "pinecone"))


def test_a_sweep_prints_a_table_and_draws_the_curve(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curve.png"
    command = ["bench", server.url, "--rates", "40,80", "--requests", "20", "--png", str(picture), "--bound", "5000"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "40 req/s" in printed.out
    assert "80 req/s" in printed.out
    assert "p99 stays within 5000 ms up to 80 requests/s" in printed.out
    assert "/20 [" in printed.err, "no progress bar"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_server_that_does_not_answer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "http://127.0.0.1:9"]) == 1
    printed = capsys.readouterr()
    assert "http://127.0.0.1:9/rerank gives no good reply (ClientConnectorError)" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--rate=0", "--rates=1,x", "--callers=0", "--documents=0", "--seconds=nan"])
def test_a_number_that_makes_no_sense_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "http://127.0.0.1:9", option])
    assert "error: argument" in capsys.readouterr().err
