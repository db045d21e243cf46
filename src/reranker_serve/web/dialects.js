/** Calls to other servers, each in its own API. */

import { Problem, plainWords } from "./server.js";

const superset = (query, documents, model) => ({ model: model || "any", query, documents });
const results = (reply) => reply.results.map((row) => [row.index, row.relevance_score ?? row.score]);
const data = (reply) => reply.data.map((row) => [row.index, row.relevance_score ?? row.score]);
const asText = (text) => ({ text });
const bearer = (key) => ({ Authorization: `Bearer ${key}` });

/** By name: the path behind a server's address, the body of a call, and `[index, score]` of each result. */
export const DIALECTS = {
  "reranker-serve": {
    path: "rerank",
    body: (...call) => ({ ...superset(...call), return_documents: false }),
    read: results,
  },
  Cohere: { path: "v2/rerank", body: superset, read: results },
  Jina: { path: "v1/rerank", body: (...call) => ({ ...superset(...call), return_documents: false }), read: results },
  "Text Embeddings Inference": {
    path: "rerank",
    body: (query, texts) => ({ query, texts, truncate: true }),
    read: (reply) => reply.map((row) => [row.index, row.score]),
  },
  Voyage: { path: "v1/rerank", body: (...call) => ({ ...superset(...call), truncation: true }), read: data },
  vLLM: { path: "v1/rerank", body: superset, read: results },
  "llama.cpp": { path: "v1/rerank", body: superset, read: results },
  Infinity: { path: "rerank", body: superset, read: results },
  Mixedbread: {
    path: "v1/reranking",
    body: (query, input, model) => ({ model: model || "any", query, input }),
    read: data,
  },
  "NVIDIA NIM": {
    path: "v1/ranking",
    body: (query, passages, model) => ({ model: model || "any", query: asText(query), passages: passages.map(asText) }),
    read: (reply) => reply.rankings.map((row) => [row.index, row.logit]),
  },
  Pinecone: {
    path: "rerank",
    body: (query, documents, model) => superset(query, documents.map(asText), model),
    read: data,
    headers: { "X-Pinecone-Api-Version": "2025-10" },
    keyHeader: (key) => ({ "Api-Key": key }),
  },
  Xinference: { path: "v1/rerank", body: superset, read: results },
};

/** `{index: score}` as a Map, from a server at another address. Raises `Problem`. */
export async function askOther({ address, dialect, key, model, query, documents, signal }) {
  const { path, body, read, headers = {}, keyHeader = bearer } = DIALECTS[dialect];
  const base = address.replace(/\/+$/, "");
  const url = base.endsWith(`/${path}`) ? base : `${base}/${path}`;
  let reply;
  try {
    reply = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers, ...(key && keyHeader(key)) },
      body: JSON.stringify(body(query, documents, model)),
      credentials: "omit",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(
      `${new URL(url).origin} does not answer, or does not let this page call it. A reranker-serve lets it with ` +
        `RERANKER_CORS_ORIGINS=${location.origin}. Any other server: use the command below.`,
    );
  }
  if (!reply.ok) throw new Problem(`${new URL(url).host}: ${await plainWords(reply)}`, reply.status);
  try {
    return new Map(read(await reply.json()));
  } catch {
    throw new Problem(`${url} answered with something else than ${dialect} would: choose another API.`);
  }
}
