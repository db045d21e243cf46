/** The view of all judgments: looked through, exported for `reranker-serve`, imported again. */

import { table } from "./documents.js";
import { byId, copyText, counted, download, element, number, showRows } from "./elements.js";
import { all, judge, onJudgment, thumbs } from "./judgments.js";
import { Problem } from "./server.js";
import { unzip, zip } from "./zip.js";

const DEMO = "sentence-transformers/all-MiniLM-L6-v2";
const today = () => new Date().toISOString().slice(0, 10);

export function startJudge() {
  const exports = {
    "export-jsonl": () => download(`judgments-${today()}.jsonl`, asLabels(all()), "application/jsonl"),
    "export-beir": () => download(`judgments-${today()}-beir.zip`, zip(asBeir(all())), "application/zip"),
    "export-trec": () => download(`judgments-${today()}-trec.zip`, zip(asTrec(all())), "application/zip"),
  };
  for (const [id, work] of Object.entries(exports)) byId(id).addEventListener("click", work);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", () => importFiles([...byId("import-file").files]));
  byId("clear-judgments").addEventListener("click", clear);
  byId("copy-calibrate").addEventListener("click", () =>
    copyText(byId("calibrate").textContent, byId("copy-calibrate")),
  );
  byId("judge").addEventListener("dragover", (event) => event.preventDefault());
  byId("judge").addEventListener(
    "drop",
    (event) => (event.preventDefault(), importFiles([...event.dataTransfer.files])),
  );
  onJudgment(() => byId("judge").hidden || showCounts());
}

/** What to do with the export, for the model that is served. */
export function showFactsInJudge(info) {
  const demo = info.model === DEMO ? " --demo" : "";
  byId("calibrate").textContent = `pip install 'reranker-serve[evaluate]'
reranker-serve calibrate${demo} judgments-${today()}.jsonl --precision 0.9
RERANKER_CALIBRATION=calibration.json reranker-serve serve${demo}`;
}

/** The rows stay as they are while one judges here: what was judged away can be judged again. */
export function showJudgments() {
  const rows = all().sort((a, b) => a.query.localeCompare(b.query) || b.label - a.label);
  showRows(byId("judgments").tBodies[0], byId("more-judgments"), rows, (row, at) =>
    element(
      "tr",
      {},
      element("td", { class: "query", dir: "auto" }, rows[at - 1]?.query === row.query ? "" : row.query),
      element(
        "td",
        { class: "document", dir: "auto" },
        row.document.length > 400 ? `${row.document.slice(0, 400)} …` : row.document,
      ),
      element("td", {}, thumbs(row.query, row.document)),
      element("td", { class: "quiet" }, (row.time ?? "").slice(0, 10)),
    ),
  );
  showCounts();
}

function showCounts() {
  const rows = all();
  const queries = new Set(rows.map((row) => row.query)).size;
  const relevant = rows.filter((row) => row.label > 0).length;
  const asked = queries === 1 ? "1 query" : `${number(queries)} queries`;
  const shares = `${number(relevant)} relevant, ${number(rows.length - relevant)} not`;
  byId("judgment-summary").textContent = rows.length
    ? `${counted(rows.length, "judgment")} of ${asked}: ${shares}.`
    : "Nothing is judged yet: rank documents under Try, and press the thumbs beside the results.";
  byId("judgments").hidden = !rows.length;
  for (const id of ["export-jsonl", "export-beir", "export-trec", "clear-judgments"]) byId(id).disabled = !rows.length;
}

function clear() {
  const before = all();
  judge(before.map((row) => ({ ...row, label: null })));
  showJudgments();
  const undo = element("button", { type: "button", class: "link" }, "Undo");
  undo.addEventListener("click", () => (judge(before), showJudgments(), say("")));
  say(`${counted(before.length, "judgment")} removed.`, undo);
}

function say(text, ...more) {
  byId("judge-note").replaceChildren(text, " ", ...more);
  byId("judge-note").hidden = !text;
}

// Formats: those that `reranker-serve evaluate`, `calibrate` and `compare` read

const lines = (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

export const asLabels = (rows) =>
  lines(rows.map(({ query, document, label, time }) => ({ query, document, label, time })));

/** Ids by text, in the order in which they come. */
function numbered(texts, letter) {
  return new Map([...new Set(texts)].map((text, at) => [text, `${letter}${at + 1}`]));
}

function byIds(rows) {
  const [queries, documents] = [
    numbered(
      rows.map((row) => row.query),
      "q",
    ),
    numbered(
      rows.map((row) => row.document),
      "d",
    ),
  ];
  const texts = (ids, more) => lines([...ids].map(([text, id]) => ({ _id: id, ...more, text })));
  return {
    ids: rows.map((row) => [queries.get(row.query), documents.get(row.document), row.label]),
    corpus: texts(documents, { title: "" }),
    queries: texts(queries),
  };
}

export function asBeir(rows) {
  const { ids, corpus, queries } = byIds(rows);
  const grades = ids.map((row) => `${row.join("\t")}\n`).join("");
  return {
    "corpus.jsonl": corpus,
    "queries.jsonl": queries,
    "qrels/test.tsv": `query-id\tcorpus-id\tscore\n${grades}`,
  };
}

export function asTrec(rows) {
  const { ids, corpus, queries } = byIds(rows);
  const grades = ids.map(([query, document, label]) => `${query} 0 ${document} ${label}\n`).join("");
  return { "qrels.txt": grades, "corpus.jsonl": corpus, "queries.jsonl": queries };
}

async function importFiles(files) {
  try {
    let count = 0;
    for (const file of files) {
      const rows = await readJudgments(file);
      judge(rows);
      count += rows.length;
    }
    showJudgments();
    say(`${counted(count, "judgment")} imported.`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(error.message);
  } finally {
    byId("import-file").value = "";
  }
}

/** The judgments of a file of ours, or of Quepid's. Raises `Problem`. */
async function readJudgments(file) {
  const ending = file.name.toLowerCase().split(".").pop();
  if (ending === "zip") return fromFolder(await unzip(file), file.name);
  const text = await file.text();
  return ending === "csv" ? fromQuepid(await table(text, ","), file.name) : fromLabels(text, file.name);
}

function fromLabels(text, name) {
  return jsonLines(text, name).map((row, at) => judgment(row ?? {}, `${name}, line ${at + 1}`));
}

function judgment({ query, document, label, time }, where) {
  if (typeof query === "string" && typeof document === "string" && Number.isInteger(label)) {
    return { query, document, label, time };
  }
  throw new Problem(`${where}: needs a query, a document, and a grade that is a whole number. Nothing was imported.`);
}

function jsonLines(text, name) {
  return text
    .split("\n")
    .filter((line) => line.trim())
    .map((line, at) => {
      try {
        return JSON.parse(line);
      } catch {
        throw new Problem(`${name}, line ${at + 1}: this is not JSON. Nothing was imported.`);
      }
    });
}

function fromFolder(files, name) {
  const find = (end) => Object.entries(files).find(([path]) => path.endsWith(end))?.[1];
  const [corpus, queries] = ["corpus.jsonl", "queries.jsonl"].map((end) => find(end));
  const grades = find(".tsv") ?? find("qrels.txt");
  if (!corpus || !queries || !grades)
    throw new Problem(`${name} needs corpus.jsonl, queries.jsonl, and qrels. Nothing was imported.`);
  const texts = (content) =>
    new Map(jsonLines(content, name).map((row) => [String(row._id), `${row.title ?? ""} ${row.text}`.trim()]));
  const [documents, questions] = [texts(corpus), texts(queries)];
  return grades
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter((row) => row.length > 2 && /^\d+$/.test(row.at(-1)))
    .map((row) => ({ query: questions.get(row[0]), document: documents.get(row.at(-2)), label: Number(row.at(-1)) }))
    .filter(({ query, document }) => query && document);
}

function fromQuepid([header = [], ...rows], name) {
  const names = header.map((cell) => cell.trim().toLowerCase());
  const [query, rating, text] = [
    ["query", "query text"],
    ["rating", "grade"],
    ["text", "document", "document text"],
  ].map((known) => names.findIndex((each) => known.includes(each)));
  if (Math.min(query, rating, text) < 0)
    throw new Problem(`${name} needs the columns query, rating and text. Nothing was imported.`);
  return rows
    .map((row, at) => [row, `${name}, row ${at + 2}`])
    .filter(([row]) => row[rating]?.trim())
    .map(([row, where]) => judgment({ query: row[query], document: row[text], label: Number(row[rating]) }, where));
}
