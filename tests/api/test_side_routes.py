"""What real clients ask beside scores."""

from __future__ import annotations

import pytest

from tests.conftest import Connect

GOOD = {"query": "blue whale", "documents": ["the blue whale"]}
MODEL = {
    "id": "fake",
    "object": "model",
    "owned_by": "reranker-serve",
    "model_type": "rerank",
    "model_name": "fake",
}


async def test_the_first_key_of_the_model_type_is_reranker(connect: Connect) -> None:
    async with connect() as client:
        facts = (await client.get("/info")).json()
    assert next(iter(facts["model_type"])) == "reranker"
    assert facts["max_input_length"] == 512
    assert facts["max_client_batch_size"] == 10_000


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/"])
async def test_models_lists_the_one_served(path: str, connect: Connect) -> None:
    async with connect() as client:
        assert (await client.get(path)).json() == {"object": "list", "data": [MODEL]}


async def test_any_model_is_the_one_served_unless_the_server_is_strict(connect: Connect) -> None:
    for name in ("fake", "any", "vendor/any-model"):
        async with connect() as client:
            assert (await client.get(f"/v1/models/{name}")).json() == MODEL
        async with connect(strict_model="true") as client:
            reply = await client.get(f"/v1/models/{name}")
            assert reply.status_code == (200 if name == "fake" else 404)


@pytest.mark.parametrize(("settings", "expected"), [({}, False), ({"api_key": "first"}, True)])
async def test_xinferences_client_is_told_whether_to_send_its_key(
    settings: dict[str, str], expected: bool, connect: Connect
) -> None:
    async with connect(**settings) as client:
        assert (await client.get("/v1/cluster/auth")).json() == {"auth": expected}


@pytest.mark.parametrize("path", ["/ping", "/v1/health/live", "/v1/health/ready"])
async def test_other_servers_probes_answer_too_and_stay_open(path: str, connect: Connect) -> None:
    async with connect(api_key="first") as client:
        assert (await client.get(path)).status_code == 200


async def test_tokens_of_texts_as_tei_gives_them(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/tokenize", json={"inputs": ["Blue whale", ""], "add_special_tokens": False})
        one = await client.post("/tokenize", json={"inputs": "Blue"})
    first, second = reply.json()
    assert [(token["text"], token["start"], token["stop"]) for token in first] == [("Blue", 0, 4), ("whale", 5, 10)]
    assert set(first[0]) == {"id", "text", "special", "start", "stop"}
    assert second == []
    assert [token["special"] for token in one.json()[0]] == [False, True]


async def test_tokens_as_vllm_and_llama_cpp_give_them(connect: Connect) -> None:
    async with connect() as client:
        prompt = (await client.post("/tokenize", json={"prompt": "blue whale"})).json()
        content = (await client.post("/tokenize", json={"content": "blue whale"})).json()
    assert (prompt["count"], prompt["max_model_len"]) == (3, 512)
    assert prompt["tokens"][:2] == content["tokens"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "inputs is required"),
        ({"inputs": 5}, 400, "inputs"),
        ({"inputs": "x" * 1_000_001}, 413, "at most 1000000"),
    ],
)
async def test_what_cannot_be_tokenized_is_said(
    body: dict[str, object], status: int, said: str, connect: Connect
) -> None:
    async with connect() as client:
        reply = await client.post("/tokenize", json=body)
    assert reply.status_code == status
    assert said in reply.json()["detail"]


async def test_headers_tell_times_ids_and_tokens(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post("/rerank", json=GOOD, headers={"X-Request-ID": "abc"})
    assert reply.headers["X-Request-ID"] == reply.headers["request-id"] == "abc"
    assert float(reply.headers["X-Response-Time-Ms"]) > 0
    names = ["compute-time", "total-time", "tokenization-time", "queue-time", "inference-time"]
    assert all(int(reply.headers[f"x-{name}"]) >= 0 for name in names)
    assert reply.headers["x-compute-tokens"] == str(reply.json()["usage"]["prompt_tokens"])
    assert reply.headers["x-compute-characters"] == str(len("blue whale") + len("the blue whale"))
