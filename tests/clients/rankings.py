"""One function a client: rank texts with the real package, the way its users do.

Each takes where the server is, the key, the query, the texts and the best n, and gives
`(index, score)` pairs in the order that the client returned. Scores are None where the client
does not hand them on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Ranking = list[tuple[int, float | None]]


def cohere_v1(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    import cohere

    client = cohere.Client(api_key=key, base_url=url)
    reply = client.rerank(model="any", query=query, documents=list(texts), top_n=n, return_documents=True)
    assert [row.document.text for row in reply.results] == [texts[row.index] for row in reply.results]
    plain = client.rerank(query=query, documents=list(texts), top_n=n)
    assert all(row.document is None for row in plain.results)
    return [(row.index, row.relevance_score) for row in reply.results]


def cohere_v2(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    import cohere

    reply = cohere.ClientV2(api_key=key, base_url=url).rerank(
        model="any", query=query, documents=list(texts), top_n=n, max_tokens_per_doc=4096
    )
    assert reply.id
    assert reply.meta.billed_units.search_units == 1
    if hasattr(cohere, "RerankRelevantSpans"):  # from version 7 on
        _cohere_spans(cohere, url, key, query, texts)
    return [(row.index, row.relevance_score) for row in reply.results]


def _cohere_spans(cohere: Any, url: str, key: str, query: str, texts: Sequence[str]) -> None:
    asked = cohere.RerankRelevantSpans(mode="enabled", threshold=-1.0, max_spans=1)
    reply = cohere.ClientV2(api_key=key, base_url=url).rerank(
        model="any", query=query, documents=list(texts), relevant_spans=asked
    )
    for row in reply.results:
        (span,) = row.relevant_spans
        assert texts[row.index][span.start : span.end].strip()
        assert 0 <= span.score <= 1


def cohere_v2_base_with_v1(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return cohere_v2(f"{url}/v1", key, query, texts, n)


def _langchain(compressor: Any, query: str, texts: Sequence[str]) -> Ranking:
    from langchain_core.documents import Document

    ranked = compressor.compress_documents([Document(page_content=text) for text in texts], query)
    return [(texts.index(document.page_content), document.metadata["relevance_score"]) for document in ranked]


def langchain_cohere(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from langchain_cohere import CohereRerank

    return _langchain(CohereRerank(model="any", base_url=url, cohere_api_key=key, top_n=n), query, texts)


def voyageai(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    import voyageai

    client = voyageai.Client(api_key=key, base_url=f"{url}/v1")
    everything = client.rerank(query, list(texts), model="any")
    assert len(everything.results) in (0, len(texts))  # none where none is relevant enough
    reply = client.rerank(query, list(texts), model="any", top_k=n)
    assert reply.total_tokens > 0
    assert [row.document for row in reply.results] == [texts[row.index] for row in reply.results]
    return [(row.index, row.relevance_score) for row in reply.results]


def langchain_voyageai(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from langchain_voyageai import VoyageAIRerank

    return _langchain(VoyageAIRerank(model="any", voyage_api_key=key, base_url=f"{url}/v1", top_k=n), query, texts)


def langchain_jina(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    import langchain_community.document_compressors.jina_rerank as jina

    jina.JINA_API_URL = f"{url}/v1/rerank"
    return _langchain(jina.JinaRerank(model="any", jina_api_key=key, top_n=n), query, texts)


def langchain_infinity(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from infinity_client import Client
    from langchain_community.document_compressors import InfinityRerank

    client = Client(base_url=url, headers={"Authorization": f"Bearer {key}"})
    return _langchain(InfinityRerank(client=client, model="any", top_n=n), query, texts)


def infinity_client(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    with AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True) as client:
        body = RerankInput(query=query, documents=list(texts), model="any", top_n=n, return_documents=True)
        reply = rerank.sync_detailed(client=client, body=body)
    if reply.status_code != 200:
        raise RuntimeError(f"{int(reply.status_code)}: {reply.content.decode()}")
    assert reply.parsed.object_ == "rerank"
    assert [row.document for row in reply.parsed.results] == [texts[row.index] for row in reply.parsed.results]
    return [(row.index, row.relevance_score) for row in reply.parsed.results]


def _llama_index(postprocessor: Any, query: str, texts: Sequence[str]) -> Ranking:
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    ranked = postprocessor.postprocess_nodes(nodes, query_str=query)
    return [(texts.index(node.node.get_content()), node.score) for node in ranked]


def llama_index_cohere(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return _llama_index(CohereRerank(top_n=n, model="any", api_key=key, base_url=url), query, texts)


def llama_index_jina(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return _llama_index(JinaRerank(top_n=n, model="any", api_key=key, base_url=f"{url}/v1"), query, texts)


def llama_index_jina_trailing_slash(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return _llama_index(JinaRerank(top_n=n, model="any", api_key=key, base_url=f"{url}/v1/"), query, texts)


def llama_index_tei(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    return _llama_index(TextEmbeddingInference(top_n=n, base_url=url, auth_token=f"Bearer {key}"), query, texts)


def llama_index_voyage(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    import voyageai
    from llama_index.postprocessor.voyageai_rerank import VoyageAIRerank

    postprocessor = VoyageAIRerank(model="any", api_key=key, top_n=n)
    postprocessor._client = voyageai.Client(api_key=key, base_url=f"{url}/v1")
    return _llama_index(postprocessor, query, texts)


def llama_index_mixedbread(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    import os

    from llama_index.postprocessor.mixedbreadai_rerank import MixedbreadAIRerank

    os.environ["MIXEDBREAD_BASE_URL"] = url
    return _llama_index(MixedbreadAIRerank(top_n=n, model="any", api_key=key), query, texts)


def llama_index_siliconflow(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank

    postprocessor = SiliconFlowRerank(model="any", api_key=key, base_url=f"{url}/v1/rerank", top_n=n)
    return _llama_index(postprocessor, query, texts)


def llama_index_xinference(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from llama_index.postprocessor.xinference_rerank import XinferenceRerank

    return _llama_index(XinferenceRerank(top_n=n, model="any", base_url=url), query, texts)


def llama_index_nvidia(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from llama_index.postprocessor.nvidia_rerank import NVIDIARerank

    return _llama_index(NVIDIARerank(model=MODEL, base_url=f"{url}/v1", api_key=key, top_n=n), query, texts)


# What the demo server calls its model; NVIDIA's clients look it up in /v1/models.
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def langchain_nvidia(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from langchain_nvidia_ai_endpoints import NVIDIARerank

    return _langchain(NVIDIARerank(model=MODEL, base_url=f"{url}/v1", api_key=key, top_n=n), query, texts)


def _haystack(ranker: Any, query: str, texts: Sequence[str], n: int) -> Ranking:
    from haystack import Document

    reply = ranker.run(query=query, documents=[Document(content=text) for text in texts], top_k=n)
    return [(texts.index(document.content), document.score) for document in reply["documents"]]


def haystack_cohere(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker

    ranker = CohereRanker(model="any", api_key=Secret.from_token(key), api_base_url=url)
    return _haystack(ranker, query, texts, n)


def haystack_jina(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.jina import JinaRanker

    ranker = JinaRanker(model="any", api_key=Secret.from_token(key), base_url=f"{url}/v1/rerank")
    return _haystack(ranker, query, texts, n)


def mixedbread(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from mixedbread import Mixedbread

    client = Mixedbread(api_key=key, base_url=url)
    reply = client.rerank(model="any", query=query, input=list(texts), top_k=n, return_input=True)
    assert [row.input for row in reply.data] == [texts[row.index] for row in reply.data]
    return [(row.index, row.score) for row in reply.data]


def pinecone(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from pinecone import Pinecone

    inference = Pinecone(api_key=key, host=url).inference
    reply = inference.rerank(model="any", query=query, documents=list(texts), top_n=n)
    assert reply.usage.rerank_units == 1
    assert [row.document["text"] for row in reply.data] == [texts[row.index] for row in reply.data]
    plain = inference.rerank(model="any", query=query, documents=list(texts), top_n=n, return_documents=False)
    assert not any(row.document for row in plain.data)
    return [(row.index, row.score) for row in reply.data]


def xinference(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    from xinference_client import RESTfulClient

    model = RESTfulClient(url, api_key=key).get_model("any")
    reply = model.rerank(documents=list(texts), query=query, top_n=n, return_documents=True)
    rows = reply["results"]
    assert [row["document"]["text"] for row in rows] == [texts[row["index"]] for row in rows]
    return [(row["index"], row["relevance_score"]) for row in rows]


def _rerankers(url: str, key: str, query: str, texts: Sequence[str], n: int, provider: str) -> Ranking:
    from rerankers.models.api_rankers import APIRanker

    ranker = APIRanker("any", api_key=key, api_provider=provider, url=url, verbose=0)
    ranked = ranker.rank(query=query, docs=list(texts), doc_ids=list(range(len(texts)))).results
    return [(row.document.doc_id, row.score) for row in ranked[:n]]


def rerankers_jina(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _rerankers(f"{url}/v1/rerank", key, query, texts, n, "jina")


def rerankers_cohere(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _rerankers(f"{url}/v1/rerank", key, query, texts, n, "cohere")


def rerankers_voyage(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _rerankers(f"{url}/v1/rerank", key, query, texts, n, "voyage")


def rerankers_mixedbread(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _rerankers(f"{url}/v1/reranking", key, query, texts, n, "mixedbread.ai")


def rerankers_pinecone(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _rerankers(f"{url}/rerank", key, query, texts, n, "pinecone")


def rerankers_tei(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _rerankers(f"{url}/rerank", key, query, texts, n, "text-embeddings-inference")


def _litellm(model: str, base: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    import litellm

    reply = litellm.rerank(model=model, api_base=base, api_key=key, query=query, documents=list(texts), top_n=n)
    assert [row["document"]["text"] for row in reply.results] == [texts[row["index"]] for row in reply.results]
    plain = litellm.rerank(
        model=model,
        api_base=base,
        api_key=key,
        query=query,
        documents=list(texts),
        top_n=n,
        return_documents=False,
    )
    # NIM's replies have no documents: there LiteLLM fills them in itself, whatever was asked.
    assert model.startswith("nvidia_nim/") or not any(row.get("document") for row in plain.results)
    return [(row["index"], row["relevance_score"]) for row in reply.results]


def litellm_cohere(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("cohere/any", url, key, query, texts, n)


def litellm_cohere_base_with_v1(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("cohere/any", f"{url}/v1", key, query, texts, n)


def litellm_hosted_vllm(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("hosted_vllm/any", url, key, query, texts, n)


def litellm_jina_ai(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("jina_ai/any", url, key, query, texts, n)


def litellm_huggingface(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("huggingface/any", url, key, query, texts, n)


def litellm_voyage(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("voyage/any", url, key, query, texts, n)


def litellm_infinity(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("infinity/any", f"{url}/infinity", key, query, texts, n)


def litellm_nvidia_nim(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("nvidia_nim/nvidia/any", url, key, query, texts, n)


def litellm_nvidia_nim_ranking(url: str, key: str, query: str, texts: Sequence[str], n: int) -> Ranking:
    return _litellm("nvidia_nim/ranking/nvidia/any", url, key, query, texts, n)
