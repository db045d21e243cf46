"""Every real client ranks as the native API does, and tells its user what went wrong in its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import httpx
import pytest
import rankings
from conftest import KEY
from rankings import Ranking

QUERY = "How do plants make food?"
TEXTS = [
    "The stock market fell on Monday.",
    "Photosynthesis turns sunlight into sugar.",
    "Bread is made of flour, water and yeast.",
    "Leaves use light, water and air to make sugar.",
    "Der B\u00e4cker backt \u2014 \u4f60\u597d.",
]
BEST = 3


@dataclass(frozen=True)
class Client:
    """A ranking function, the distribution it needs, and what its user sees when something is wrong.

    The three are names of exceptions; of `empty`, "nothing" means that the client asks nobody
    and returns an empty list. `returns_all`: it asks for all documents or ignores the best n. `none_above`: what is
    seen where no document is above the server's threshold.
    """

    rank: Callable[..., Ranking]
    distribution: str
    wrong_key: str
    empty: str
    full: str
    returns_all: bool = False
    raw: bool = False
    none_above: str = "nothing"


COHERE = ("UnauthorizedError", "BadRequestError", "TooManyRequestsError")
VOYAGE = ("AuthenticationError", "InvalidRequestError", "RateLimitError")
# LiteLLM up to 1.83 has one exception for every status of a rerank call.
LITELLM = (
    "AuthenticationError|APIConnectionError",
    "BadRequestError|APIConnectionError",
    "RateLimitError|APIConnectionError",
)
MIXEDBREAD = ("AuthenticationError", "BadRequestError", "RateLimitError")


def quiet(three: tuple[str, str, str]) -> tuple[str, str, str]:
    """The same client inside a framework that asks nobody about an empty list."""
    return three[0], "nothing", three[2]


CLIENTS = [
    Client(rankings.cohere_v1, "cohere", *COHERE),
    Client(rankings.cohere_v2, "cohere", *COHERE),
    Client(rankings.cohere_v2_base_with_v1, "cohere", *COHERE),
    Client(rankings.langchain_cohere, "langchain-cohere", *quiet(COHERE)),
    Client(rankings.voyageai, "voyageai", *VOYAGE),
    Client(rankings.langchain_voyageai, "langchain-voyageai", *quiet(VOYAGE)),
    Client(rankings.langchain_jina, "langchain-community", "RuntimeError", "nothing", "RuntimeError"),
    # Its client gives None for any error, which the framework then iterates over.
    Client(rankings.langchain_infinity, "infinity-client", "TypeError", "nothing", "TypeError"),
    Client(rankings.infinity_client, "infinity-client", "UnexpectedStatus", "RuntimeError", "UnexpectedStatus"),
    Client(rankings.llama_index_cohere, "llama-index-postprocessor-cohere-rerank", *quiet(COHERE)),
    Client(
        rankings.llama_index_jina, "llama-index-postprocessor-jinaai-rerank", "RuntimeError", "nothing", "RuntimeError"
    ),
    Client(
        rankings.llama_index_jina_trailing_slash,
        "llama-index-postprocessor-jinaai-rerank",
        "RuntimeError",
        "nothing",
        "RuntimeError",
    ),
    # It never looks at the status.
    Client(
        rankings.llama_index_tei,
        "llama-index-postprocessor-tei-rerank",
        "AssertionError|TypeError",
        "nothing",
        "AssertionError|TypeError",
        none_above="AssertionError",  # and asserts that every text came back
    ),
    Client(rankings.llama_index_voyage, "llama-index-postprocessor-voyageai-rerank", *quiet(VOYAGE)),
    Client(rankings.llama_index_mixedbread, "llama-index-postprocessor-mixedbreadai-rerank", *quiet(MIXEDBREAD)),
    Client(
        rankings.llama_index_siliconflow,
        "llama-index-postprocessor-siliconflow-rerank",
        "RuntimeError",
        "nothing",
        "RuntimeError",
    ),
    Client(
        rankings.llama_index_nvidia,
        "llama-index-postprocessor-nvidia-rerank",
        "HTTPStatusError",
        "nothing",
        "HTTPStatusError",
        raw=True,
    ),
    Client(rankings.langchain_nvidia, "langchain-nvidia-ai-endpoints", "Exception", "nothing", "Exception", raw=True),
    Client(rankings.haystack_cohere, "cohere-haystack", *COHERE),
    Client(rankings.haystack_jina, "jina-haystack", "RuntimeError", "nothing", "RuntimeError"),
    Client(rankings.mixedbread, "mixedbread", *MIXEDBREAD),
    Client(rankings.pinecone, "pinecone", "UnauthorizedError", "PineconeValueError", "RateLimitError"),
    Client(rankings.xinference, "xinference-client", "RuntimeError", "RuntimeError", "RuntimeError"),
    *(
        # It never looks at the status, and takes the first document for granted.
        Client(rank, "rerankers", "KeyError|TypeError", "IndexError", "KeyError|TypeError")
        for rank in (
            rankings.rerankers_jina,
            rankings.rerankers_cohere,
            rankings.rerankers_voyage,
            rankings.rerankers_mixedbread,
            rankings.rerankers_pinecone,
            rankings.rerankers_tei,
        )
    ),
    *(
        Client(rank, "litellm", *LITELLM)
        for rank in (
            rankings.litellm_cohere,
            rankings.litellm_cohere_base_with_v1,
            rankings.litellm_hosted_vllm,
            rankings.litellm_jina_ai,
            rankings.litellm_voyage,
            rankings.litellm_infinity,
        )
    ),
    Client(rankings.litellm_huggingface, "litellm", *LITELLM, returns_all=True),
    Client(rankings.litellm_nvidia_nim, "litellm", *LITELLM, returns_all=True, raw=True),
    Client(rankings.litellm_nvidia_nim_ranking, "litellm", *LITELLM, returns_all=True, raw=True),
]


def installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


HERE = [client for client in CLIENTS if installed(client.distribution)]
each_client = pytest.mark.parametrize("client", HERE, ids=lambda client: client.rank.__name__)


def native(url: str, raw: bool = False) -> Ranking:
    body = {"query": QUERY, "documents": TEXTS, "raw_scores": raw}
    reply = httpx.post(f"{url}/rerank", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    return [(row["index"], row["relevance_score"]) for row in reply.json()["results"]]


@each_client
def test_it_ranks_as_the_native_api_does(client: Client, server: str) -> None:
    expected = native(server, client.raw)
    ranking = client.rank(server, KEY, QUERY, TEXTS, BEST)
    assert len(ranking) == BEST or (client.returns_all and len(ranking) == len(TEXTS))
    for got, wanted in zip(ranking, expected, strict=False):
        assert got[0] == wanted[0]
        assert got[1] == pytest.approx(wanted[1], abs=1e-6)


def seen(client: Client, url: str, key: str, texts: list[str]) -> str:
    """The name of the exception that its user gets, or "nothing" for an empty ranking."""
    try:
        ranking = client.rank(url, key, QUERY, texts, BEST)
    except Exception as error:
        return type(error).__name__
    return str(ranking) if ranking else "nothing"


@each_client
def test_a_wrong_key_is_its_own_exception(client: Client, server: str) -> None:
    assert seen(client, server, "wrong", TEXTS) in client.wrong_key.split("|")


@each_client
def test_an_empty_list_is_its_own_exception_or_asks_nobody(client: Client, server: str) -> None:
    assert seen(client, server, KEY, []) in client.empty.split("|")


@each_client
def test_an_overloaded_server_is_its_own_exception(client: Client, full_server: str) -> None:
    assert seen(client, full_server, KEY, TEXTS) in client.full.split("|")


@each_client
def test_a_ranking_in_which_nothing_is_relevant_enough_is_empty(client: Client, strict_server: str) -> None:
    assert seen(client, strict_server, KEY, TEXTS) in client.none_above.split("|")


@pytest.mark.skipif(not installed("llama-index-postprocessor-xinference-rerank"), reason="not in this environment")
def test_llama_indexs_xinference_sends_no_key_and_ranks_on_an_open_server(open_server: str, server: str) -> None:
    ranking = rankings.llama_index_xinference(open_server, "", QUERY, TEXTS, BEST)
    assert [index for index, _ in ranking] == [index for index, _ in native(server)][:BEST]
    with pytest.raises(Exception, match="401"):
        rankings.llama_index_xinference(server, KEY, QUERY, TEXTS, BEST)
    assert rankings.llama_index_xinference(open_server, "", QUERY, [], BEST) == []
