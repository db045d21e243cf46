/** The call that is being tried, in the words of the clients that people use. */

const LONG = 72;
const SHOWN = 3;

const text = (value) => JSON.stringify(value);
const python = (value) =>
  value === null
    ? "None"
    : value === true
      ? "True"
      : value === false
        ? "False"
        : typeof value === "object"
          ? dict(value)
          : text(value);
const dict = (value) =>
  `{${Object.entries(value)
    .map(([name, each]) => `${text(name)}: ${python(each)}`)
    .join(", ")}}`;
const list = (documents, indent) => `[\n${documents.map((each) => `${indent}    ${text(each)},\n`).join("")}${indent}]`;

/** Options beside query and documents that the call has. */
function optionsOf({ query, documents, return_documents: _, ...options }) {
  return options;
}

const noPlace = (body, taken) => {
  const missing = Object.keys(optionsOf(body)).filter((name) => !taken.includes(name));
  return missing.length ? `# This client has no place for ${missing.join(", ")}.\n` : "";
};

/** Each takes the body of a call to `rerank`, the server's address without its last slash, and whether it needs a key. */
export const SNIPPETS = {
  curl: (body, url, key) =>
    [
      `curl -s ${url}/rerank`,
      key && `  -H "Authorization: Bearer $RERANKER_API_KEY"`,
      `  -H 'Content-Type: application/json'`,
      `  -d '${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`,
    ]
      .filter(Boolean)
      .join(" \\\n"),

  httpx: (body, url, key) => `import httpx
${key ? "import os\n" : ""}
reply = httpx.post(
    "${url}/rerank",
${key ? `    headers={"Authorization": "Bearer " + os.environ["RERANKER_API_KEY"]},\n` : ""}    json={
${Object.entries(body)
  .map(([name, value]) => `        ${text(name)}: ${name === "documents" ? list(value, "        ") : python(value)},\n`)
  .join("")}    },
    timeout=300,
)
for result in reply.raise_for_status().json()["results"]:
    print(result["index"], result["relevance_score"])`,

  cohere: (body, url, key) => `import cohere
${key ? "import os\n" : ""}
client = cohere.ClientV2(api_key=${pythonKey(key)}, base_url="${url}")
reply = client.rerank(
    model="any",
    query=${text(body.query)},
    documents=${list(body.documents, "    ")},
${Object.keys(optionsOf(body)).length ? `    request_options={"additional_body_parameters": ${dict(optionsOf(body))}},\n` : ""})
for result in reply.results:
    print(result.index, result.relevance_score)`,

  voyageai: (body, url, key) => `${noPlace(body, [])}import voyageai
${key ? "import os\n" : ""}
client = voyageai.Client(api_key=${pythonKey(key)}, base_url="${url}/v1")
reply = client.rerank(
    ${text(body.query)},
    ${list(body.documents, "    ")},
    model="any",
)
for result in reply.results:
    print(result.index, result.relevance_score)`,

  LangChain: (body, url, key) => `${noPlace(body, [])}from langchain_cohere import CohereRerank
from langchain_core.documents import Document
${key ? "import os\n" : ""}
ranker = CohereRerank(model="any", base_url="${url}", cohere_api_key=${pythonKey(key)}, top_n=10)
texts = ${list(body.documents, "")}
documents = [Document(page_content=text) for text in texts]
for document in ranker.compress_documents(documents, ${text(body.query)}):
    print(document.metadata["relevance_score"], document.page_content)`,

  LlamaIndex: (body, url, key) => `${noPlace(body, [])}from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
${key ? "import os\n" : ""}
ranker = CohereRerank(top_n=10, model="any", api_key=${pythonKey(key)}, base_url="${url}")
texts = ${list(body.documents, "")}
nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
for node in ranker.postprocess_nodes(nodes, query_str=${text(body.query)}):
    print(node.score, node.node.text)`,

  JavaScript: (body, url, key) => `const reply = await fetch("${url}/rerank", {
  method: "POST",
  headers: {
    "Content-Type": "application/json",${key ? "\n    Authorization: `Bearer ${process.env.RERANKER_API_KEY}`," : ""}
  },
  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),
});
if (!reply.ok) throw new Error(await reply.text());
for (const { index, relevance_score } of (await reply.json()).results) console.log(index, relevance_score);`,
};

const pythonKey = (key) => (key ? `os.environ["RERANKER_API_KEY"]` : `"any"`);

/** The body with a few short documents, to be read rather than run. */
export function shortened(body) {
  const documents = body.documents
    .slice(0, SHOWN)
    .map((each) => (each.length > LONG ? `${each.slice(0, LONG)}…` : each));
  return { ...body, documents };
}

export const isShortened = ({ documents }) => documents.length > SHOWN || documents.some((each) => each.length > LONG);
