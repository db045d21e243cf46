"""`min_score` and `min_probability`: what is below does not come back, in every dialect, and is counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reranker_serve.api.dialect import Dialect
from reranker_serve.api.dialects.table import DIALECTS
from reranker_serve.backends.fake import FakeBackend
from reranker_serve.calibration import Calibration
from tests.api.test_deadline import Passes, rows_of
from tests.api.test_dialects import body_in
from tests.calibrations import calibration
from tests.conftest import Connect

QUERY = "blue whale"
# Raw scores -1, 1, 0, 0, -1.
TEXTS = ["a red fox", "the blue whale", "a whale", "blue sky", "nothing"]
BODY = {"query": QUERY, "documents": TEXTS}
HALF = 0.5  # relevance of a raw score of 0

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
Write = Callable[[Calibration], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a calibration; gives its path, as a setting."""

    def write(made: Calibration) -> str:
        file = tmp_path / "calibration.json"
        file.write_text(made.model_dump_json())
        return str(file)

    return write


def path_of(dialect: Dialect) -> str:
    return dialect.paths[0].replace("{model:path}", "m")


def indices(content: Any) -> list[int]:
    """Which documents came back; pairs without an index are told by their places."""
    rows = rows_of(content)
    if rows and isinstance(rows[0], list):
        return [place for place, row in enumerate(rows) if row]
    return [row["index"] for row in rows]


def raw(dialect: Dialect) -> bool:
    return dialect.name == "nim"


@each_dialect
async def test_what_is_below_does_not_come_back_and_is_counted(dialect: Dialect, connect: Connect) -> None:
    least = 0.0 if raw(dialect) else HALF
    async with connect() as client:
        plain = await client.post(path_of(dialect), json=body_in(dialect, QUERY, TEXTS))
        reply = await client.post(path_of(dialect), json=body_in(dialect, QUERY, TEXTS) | {"min_score": least})
    assert reply.status_code == 200
    assert indices(reply.json()) == [place for place in indices(plain.json()) if place in (1, 2, 3)]
    assert reply.headers["X-Rerank-Left-Out"] == "2"
    assert "X-Rerank-Left-Out" not in plain.headers
    assert "left_out" not in plain.text
    if isinstance(reply.json(), dict):
        assert reply.json()["left_out"] == 2


@each_dialect
async def test_nothing_above_is_an_empty_ranking_of_the_usual_shape(dialect: Dialect, connect: Connect) -> None:
    body = body_in(dialect, QUERY, TEXTS)
    async with connect() as client:
        plain = (await client.post(path_of(dialect), json=body)).json()
        reply = await client.post(path_of(dialect), json=body | {"min_score": 99})
    assert reply.status_code == 200
    assert reply.headers["X-Rerank-Left-Out"] == "5"
    assert [row for row in rows_of(reply.json()) if row] == []
    if isinstance(plain, dict):
        assert reply.json().keys() == plain.keys() | {"left_out"}
        assert reply.json().get("usage") == plain.get("usage")


async def test_pairs_below_keep_an_empty_place_where_there_is_no_index(connect: Connect) -> None:
    pairs = [[QUERY, TEXTS[0]], [QUERY, TEXTS[1]], ["red fox", TEXTS[0]], ["red fox", TEXTS[1]]]
    async with connect() as client:
        several = await client.post("/predict", json={"inputs": pairs, "min_score": HALF})
        one = await client.post("/predict", json={"inputs": pairs[0], "min_score": HALF})
        queries, documents = zip(*pairs, strict=True)
        scores = await client.post(
            "/score", json={"queries": queries, "documents": documents, "min_score": HALF, "raw_scores": False}
        )
    assert [len(labels) for labels in several.json()] == [0, 1, 1, 0]
    assert one.json() == []
    assert [row["index"] for row in scores.json()["data"]] == [1, 2]
    assert scores.headers["X-Rerank-Left-Out"] == several.headers["X-Rerank-Left-Out"] == "2"


async def test_it_is_on_the_scale_of_the_scores_that_come_back(connect: Connect) -> None:
    async with connect() as client:
        of_raw = await client.post("/rerank", json=BODY | {"raw_scores": True, "min_score": -0.5})
        relevance = await client.post("/rerank", json=BODY | {"min_score": 1 / (1 + math.exp(-1)) - 1e-6})
    assert indices(of_raw.json()) == [1, 2, 3]
    assert indices(relevance.json()) == [1]


async def test_a_score_as_it_came_back_is_not_below_itself(connect: Connect) -> None:
    async with connect() as client:
        scores = [row["relevance_score"] for row in (await client.post("/rerank", json=BODY)).json()["results"]]
        for score in scores:
            rows = (await client.post("/rerank", json=BODY | {"min_score": score})).json()["results"]
            assert len(rows) == sum(other >= score for other in scores)
            more = BODY | {"min_score": math.nextafter(score, 2)}
            rows = (await client.post("/rerank", json=more)).json()["results"]
            assert len(rows) == sum(other > score for other in scores)


async def test_left_out_is_counted_whatever_top_n_is(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/v1/rerank", json=BODY | {"min_score": HALF, "top_n": 1})
        more = await client.post("/v1/rerank", json=BODY | {"min_score": HALF, "top_n": 4})
    assert (indices(reply.json()), reply.json()["left_out"]) == ([1], 2)
    assert (indices(more.json()), more.json()["left_out"]) == ([1, 2, 3], 2)


async def test_the_settings_threshold_is_of_relevance_and_a_request_overrides_it(connect: Connect) -> None:
    async with connect(min_score="0.5") as client:
        default = await client.post("/v2/rerank", json=BODY)
        logits = await client.post("/ranking", json={"query": QUERY, "passages": TEXTS})
        of_raw = await client.post("/v2/rerank", json=BODY | {"raw_scores": True})
        own = await client.post("/v2/rerank", json=BODY | {"min_score": 0})
        facts = (await client.get("/info")).json()
    assert indices(default.json()) == indices(logits.json()) == indices(of_raw.json()) == [1, 2, 3]
    assert (len(own.json()["results"]), own.json()["left_out"]) == (5, 0)
    assert facts["thresholds"] == {"min_score": 0.5, "min_probability": None}


@pytest.mark.parametrize("dialect", [row for row in DIALECTS if row.name in ("native", "cohere_v2", "tei_predict")])
async def test_a_document_without_a_score_is_not_below(dialect: Dialect, connect: Connect) -> None:
    passes = Passes(3)
    async with connect(FakeBackend(passes, batch_token_cap=1), cache_entries="0") as client:
        body = body_in(dialect, QUERY, TEXTS) | {"deadline_ms": 300, "min_score": HALF}
        reply = await client.post(path_of(dialect), json=body)
        passes.let_go()
    assert reply.headers["X-Rerank-Scored"] == "3/5"
    assert reply.headers["X-Rerank-Left-Out"] == "1"
    assert indices(reply.json()) == ([1, 2, 3, 4] if dialect.shows_unscored else [1, 2])


@pytest.mark.parametrize("field", ["min_score", "min_probability"])
@pytest.mark.parametrize("value", [True, "high", "nan", 10**400, [0.5]])
async def test_a_threshold_that_is_no_number_is_named(field: str, value: Any, connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=BODY | {field: value})
    assert reply.status_code == 400
    assert field in reply.json()["detail"]


@each_dialect
async def test_a_calibrated_server_tells_the_probability_beside_the_same_score(
    dialect: Dialect, connect: Connect, write: Write
) -> None:
    body = body_in(dialect, QUERY, TEXTS)
    async with connect() as client:
        plain = rows_of((await client.post(path_of(dialect), json=body)).json())
    async with connect(calibration=write(calibration())) as client:
        rows = rows_of((await client.post(path_of(dialect), json=body)).json())
        few = await client.post(path_of(dialect), json=body | {"min_probability": 0.5})
    flat = [row[0] if isinstance(row, list) else row for row in rows]
    probabilities = [row.pop("probability") for row in flat]
    assert rows == plain
    by_place = dict(zip(indices(plain), probabilities, strict=True))
    assert by_place == pytest.approx({0: 0.01799, 1: 0.5, 2: 0.1192, 3: 0.1192, 4: 0.01799}, abs=1e-4)
    assert indices(few.json()) == [1]
    assert few.headers["X-Rerank-Left-Out"] == "4"


async def test_both_thresholds_hold_and_each_is_overridden_by_its_own_name(connect: Connect, write: Write) -> None:
    async with connect(calibration=write(calibration()), min_probability="0.1", min_score="0.6") as client:
        both = await client.post("/rerank", json=BODY)
        probable = await client.post("/rerank", json=BODY | {"min_score": 0})
        everything = await client.post("/rerank", json=BODY | {"min_score": 0, "min_probability": 0})
    assert [len(reply.json()["results"]) for reply in (both, probable, everything)] == [1, 3, 5]


async def test_without_a_calibration_the_error_says_what_to_do(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=BODY | {"min_probability": 0.5})
        off = await client.post("/rerank", json=BODY | {"min_probability": 0})
    assert reply.status_code == 400
    assert reply.json()["detail"].startswith("this server has no calibration: set RERANKER_CALIBRATION")
    assert reply.json()["error"]["param"] == "min_probability"
    assert off.status_code == 200
    assert "probability" not in off.json()["results"][0]


async def test_info_tells_of_the_calibration_without_its_curve(connect: Connect, write: Write) -> None:
    async with connect() as client:
        assert (await client.get("/info")).json()["calibration"] is None
    async with connect(calibration=write(calibration())) as client:
        facts = (await client.get("/info")).json()["calibration"]
    assert set(facts) == {"method", "made", "basis", "data", "error_before", "error", "thresholds"}
    assert facts["thresholds"][0]["min_probability"] == 0.5


async def test_one_of_another_model_serves_nothing_and_says_why(connect: Connect, write: Write) -> None:
    async with connect(calibration=write(calibration(precision="bfloat16"))) as client:
        reply = await client.get("/ready")
    assert (reply.status_code, reply.json()["status"]) == (503, "failed")
    assert "another precision than is served: 'bfloat16', not 'float32'" in reply.json()["reason"]
