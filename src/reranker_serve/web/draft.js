/** What is being tried: query, documents and options. Kept in this browser, for each tab its own. */

import { debounced } from "./elements.js";
import { SAMPLE } from "./sample.js";

const NAME = "reranker-serve.draft";
// Browsers keep about five million characters for a site.
const MOST_CHARACTERS = 2_000_000;

const EMPTY = {
  query: "",
  instruction: "",
  documents: [],
  maxLength: null,
  rawScores: false,
  spans: true,
  sample: false,
};

/** A tab goes on with its own draft; a new tab begins with the last one. */
function load() {
  try {
    const kept = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
    if (kept) return { ...EMPTY, ...JSON.parse(kept) };
  } catch {
    // Something else wrote there, or the browser keeps nothing.
  }
  return { ...EMPTY, ...structuredClone(SAMPLE), sample: true };
}

export const draft = load();

const listeners = [];

/** `listener(kept)` is called after each change; `kept` is false if the draft is too long to be kept. */
export const onDraft = (listener) => listeners.push(listener);

/** Change the draft: `change({query: "..."})`. */
export function change(values) {
  Object.assign(draft, values);
  if ("documents" in values || "query" in values) draft.sample = values.sample ?? false;
  store();
  listeners.forEach((listener) => listener());
}

const store = debounced(300, keep);

function keep() {
  const short = draft.documents.reduce((sum, { text }) => sum + text.length, 0) < MOST_CHARACTERS;
  try {
    if (!short) throw new Error("too long");
    const text = JSON.stringify(draft);
    sessionStorage.setItem(NAME, text);
    localStorage.setItem(NAME, text);
    draftIsKept = true;
  } catch {
    draftIsKept = false;
  }
}

export let draftIsKept = true;
addEventListener("pagehide", keep);

/** The documents that hold any text, with their places in the table. */
export const filled = () => draft.documents.filter(({ text }) => text.trim());

let takesInstruction = true;

/** Of a model that takes no instruction none is asked, whatever was written for another one. */
export function setTakesInstruction(takes) {
  takesInstruction = takes;
}

/** The body of a call to `rerank` that ranks the draft; without documents to come back, as they are here. */
export function request(documents = filled(), most = 100) {
  const body = { query: draft.query.trim(), documents: documents.map(({ text }) => text), return_documents: false };
  if (takesInstruction && draft.instruction.trim()) body.instruction = draft.instruction.trim();
  if (draft.maxLength) body.max_length = draft.maxLength;
  if (draft.rawScores) body.raw_scores = true;
  if (draft.spans && documents.length <= most) body.relevant_spans = { mode: "enabled", max_spans: 1 };
  return body;
}
