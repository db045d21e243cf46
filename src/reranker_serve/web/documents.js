/** Documents from what was pasted or dropped: text, CSV, JSON, JSON Lines such as a BEIR corpus. */

import { breather, counted } from "./elements.js";
import { Problem } from "./server.js";

const TEXT = ["text", "content", "contents", "document", "passage", "body"];
const ID = ["_id", "id", "docid", "doc_id"];

/** `{documents: [{id, text}], note}` of a file. Raises `Problem`, which names what is wrong and where. */
export async function readFile(file) {
  const text = (await contentOf(file)).replace(/^\uFEFF/, "");
  if (text.includes("\0") || (text.match(/\uFFFD/g)?.length ?? 0) > text.length / 100) {
    throw new Problem(`${file.name} is no text file. Nothing was added; TXT, CSV, JSON and JSON Lines can be read.`);
  }
  const read = await readText(text, file.name);
  if (!read.documents.length) throw new Problem(`${file.name} holds no text. Nothing was added.`);
  return read;
}

async function contentOf(file) {
  try {
    return await file.text();
  } catch {
    throw new Problem(`${file.name} cannot be read: it is a folder, or was moved away. Nothing was added.`);
  }
}

/** The same of a text; `name` tells the format by its ending, else the text's beginning does. */
export async function readText(text, name = "") {
  const ending = name.toLowerCase().split(".").pop();
  if (ending === "csv" || ending === "tsv") return fromTable(await table(text, ending === "csv" ? "," : "\t"), name);
  if (ending === "json" || (!name && text.trimStart().startsWith("["))) {
    const listed = parsed(text);
    if (listed !== undefined) return fromJson(listed, name || "The text");
    if (name && !text.includes("}\n")) throw new Problem(`${name} is not valid JSON. Nothing was added.`);
  }
  if (/^\s*\{/.test(text) && (name || parsed(text.trimStart().split("\n")[0])))
    return fromLines(text, name || "The text");
  return { documents: await plainLines(text), note: "" };
}

async function plainLines(text) {
  const documents = [];
  const breathe = breather();
  for (const line of text.split(/\r\n?|\n/)) {
    if (line.trim()) documents.push({ text: line.trim() });
    await breathe();
  }
  return documents;
}

async function fromLines(text, name) {
  const documents = [];
  const breathe = breather();
  for (const [at, line] of text.split("\n").entries()) {
    await breathe();
    if (!line.trim()) continue;
    const row = parsed(line);
    if (row === undefined) throw new Problem(`${name}, line ${at + 1}: this is not JSON. Nothing was added.`);
    documents.push(fromRow(row, `${name}, line ${at + 1}`));
  }
  return { documents: documents.filter((row) => row.text.trim()), note: "" };
}

function fromJson(listed, name) {
  const rows = Array.isArray(listed) ? listed : (listed?.documents ?? listed?.texts ?? listed?.passages);
  if (!Array.isArray(rows)) throw new Problem(`${name} holds no list of documents. Nothing was added.`);
  return {
    documents: rows.map((row, at) => fromRow(row, `${name}, entry ${at + 1}`)).filter((row) => row.text.trim()),
    note: "",
  };
}

function fromRow(row, where) {
  if (typeof row === "string") return { text: row };
  const text = of(row, TEXT);
  if (typeof text !== "string") {
    throw new Problem(`${where}: there is no text under any of ${TEXT.join(", ")}. Nothing was added.`);
  }
  const id = of(row, ID);
  return {
    id: id === undefined ? undefined : String(id),
    text: typeof row.title === "string" ? `${row.title} ${text}`.trim() : text,
  };
}

function fromTable(rows, name) {
  if (!rows.length) return { documents: [], note: "" };
  const header = rows[0].map((cell) => cell.trim().toLowerCase());
  const [text, id] = [TEXT, ID].map((names) => header.findIndex((cell) => names.includes(cell)));
  const column = text >= 0 ? text : longestColumn(rows);
  const body = text >= 0 ? rows.slice(1) : rows;
  const documents = body
    .filter((row) => row[column]?.trim())
    .map((row) => ({ id: text >= 0 && id >= 0 ? row[id] : undefined, text: row[column].trim() }));
  const guessed = text < 0 && rows[0].length > 1;
  return {
    documents,
    note: guessed ? `${name} has no column called text: column ${column + 1}, the longest, was taken.` : "",
  };
}

function longestColumn(rows) {
  const lengths = [];
  for (const row of rows.slice(0, 100)) row.forEach((cell, at) => (lengths[at] = (lengths[at] ?? 0) + cell.length));
  return lengths.indexOf(Math.max(...lengths));
}

/** The rows of a CSV; a quoted cell may hold line breaks, separators, and quotes written twice. */
export async function table(text, separator) {
  const cell = new RegExp(`(?:"((?:[^"]|"")*)"|((?!")[^${separator}\\r\\n]*))(${separator}|\\r\\n?|\\n|$)`, "y");
  const rows = [];
  const breathe = breather();
  let row = [];
  while (cell.lastIndex < text.length) {
    const at = cell.lastIndex;
    const found = cell.exec(text);
    if (!found)
      throw new Problem(`Line ${text.slice(0, at).split("\n").length}: a quote is not closed. Nothing was added.`);
    row.push(found[1] === undefined ? found[2] : found[1].replaceAll('""', '"'));
    if (found[3] !== separator) {
      if (row.some((each) => each)) rows.push(row);
      row = [];
      await breathe();
    }
  }
  if (row.length) rows.push(row);
  return rows;
}

const of = (row, names) => row?.[names.find((name) => row?.[name] !== undefined)];

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export const summary = (documents) => counted(documents.length, "document");
